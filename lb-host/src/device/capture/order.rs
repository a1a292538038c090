//! Numbers in either byte order.

/// The byte order of a capture's own fields: that of the machine that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    /// The order in which these four bytes are `value`.
    pub(super) fn of(bytes: [u8; 4], value: u32) -> Option<Self> {
        [Self::Big, Self::Little].into_iter().find(|order| order.u32(&bytes, 0) == Some(value))
    }

    /// The number at offset `at`.
    #[inline]
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Self::Big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The number at offset `at`.
    #[inline]
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Self::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The number at offset `at`.
    #[inline]
    pub(super) fn i64(self, bytes: &[u8], at: usize) -> Option<i64> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self == Self::Big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
    }
}
