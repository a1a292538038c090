//! The shared set of real captures, which lives beside the repository, and tshark.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[allow(dead_code, reason = "each test program takes what it needs")]
pub(crate) mod tshark;

/// File names and how many packets each holds, as stated in the set's `PROVENANCE.md`.
pub(crate) const CAPTURES: &[(&str, usize)] = &[
    ("suricata-verify__bug-7725-04__ip_in_ip.pcap", 6),
    ("suricata-verify__decode-sll2-01__input.pcap", 5),
    ("suricata-verify__decode-teredo-01__input.pcap", 78),
    ("suricata-verify__defrag__bug-6887-defrag-eth-vlan-ipv6-tcp__frag-eth-vlan-ipv6-tcp.pcap", 3),
    ("suricata-verify__eve-flow-esp__input.pcap", 8),
    ("suricata-verify__file-match-crossed__http-multipart-post.pcap", 45),
    ("suricata-verify__filestore-5408__input.pcap", 133),
    ("suricata-verify__ipv6-evasion__ipv6-malformed-fragments-12__frag-12.pcap", 9),
    ("suricata-verify__lua-scfileinfo__filecontainer-http-slice.pcap", 17),
    ("suricata-verify__lua__lua-tlslib-02__input.pcap", 62),
    ("suricata-verify__mqtt-connect-rules__mqtt5_pub_jpeg.pcap", 14),
    ("suricata-verify__nfs-bug-5140__nfsv2.pcap", 156),
    ("suricata-verify__output-eve-ftp-data__input.pcap", 1350),
    ("suricata-verify__security-8550__input.pcap", 2),
    ("suricata-verify__smb2-07__20171220_smb_psexec_add_user.pcap", 400),
    ("suricata-verify__smb2-ntlmssp-negotiateflags__input.pcap", 1000),
    ("suricata-verify__ssl_version_negated__input.pcap", 114),
    ("suricata-verify__tls__tls-cert-issuer__tls.pcap", 110),
    ("suricata-verify__transform-base64-7296__input.pcap", 59),
    ("suricata-verify__truncate-applayer-test-01__input.pcap", 99),
    ("gopacket__pcapgo__be__test008.pcapng", 4),
    ("gopacket__pcapgo__be__test018.pcapng", 4),
    ("gopacket__pcapgo__be__test200.pcapng", 0),
    ("pcap-parser__assets__err-buffertoosmall.pcapng", 27),
    ("tcpdump__802.1ad_QinQ.pcap", 2),
    ("tcpdump__bgp-bgp_capabilities_print-oobr-1.pcap", 1),
    ("tcpdump__erspan-type-i-4.pcap", 119),
    ("tcpdump__erspan-type-iii-pb-1.pcap", 1),
    ("tcpdump__extract_read2_asan.pcap", 1),
    ("tcpdump__gso-ipv6-vxlan-ipv6.pcap", 1),
    ("tcpdump__heap-overflow-1.pcap", 1),
    ("tcpdump__ipv4_invalid_total_length_2.pcap", 1),
    ("tcpdump__ipv6-rthdr-oobr.pcap", 1),
    ("tcpdump__ipv6-srh-ext-header.pcap", 1),
    ("tcpdump__ipv6_frag6_negative_len.pcap", 1),
    ("tcpdump__ipv6_mobility_1.pcap", 16),
    ("tcpdump__pim_header_asan-2.pcap", 3),
    ("tcpdump__pppoes.pcap", 2),
    ("tcpdump__quic_handshake_truncated.pcap", 18),
    ("tcpdump__tcp-handshake-nano.pcap", 3),
    ("zeek__chksums__ip4-icmp-bad-chksum.pcap", 1),
    ("zeek__communityid__sctp.pcap", 74),
    ("zeek__ftp__bigtransfer.pcap", 83),
    ("zeek__http__concurrent-range-requests.pcap", 57),
    ("zeek__icmp__icmp6-toobig.pcap", 1),
    ("zeek__ipv6-reassembly-state-leak.pcap", 92),
    ("zeek__ldap__ldap-max-recursion.pcap", 500),
    ("zeek__mobile-ipv6__ipv6-mobile-routing.pcap", 1),
    ("zeek__nfs__nfs_write_bad_stable_how.pcap", 153),
    ("zeek__quic__383379789-decrypt-crash.pcap", 9),
    ("zeek__quic__quic-39264-rand.pcap", 19),
    ("zeek__quic__quic-multiple-initial-fragmented-crypto.pcap", 15),
    ("zeek__snmp__leak_test.pcapng", 79),
    ("zeek__tcp__retransmit-fast009.pcap", 39),
    ("zeek__trunc__mpls-6in6-6in6-4in6-trunc.pcap", 1),
    ("zeek__tunnels__geneve-truncated.pcapng", 1),
    ("zeek__var-services-std-ports.pcap", 263),
];

/// Where the captures are. They lie beside the workspace and not in it: a clone has none, in CI neither; that is said.
pub(crate) fn directory() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps");
    if !directory.is_dir() {
        eprintln!("!!! NOT CHECKED: there are no real captures in ../shared/pcaps beside the workspace");
        return None;
    }
    Some(directory)
}

/// Whether tshark is installed. If it is not, says so; in CI that is a failure.
pub(crate) fn tshark() -> bool {
    let version = Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "tshark (Debian package tshark) must be there in CI");
        eprintln!("!!! NOT CHECKED: tshark (Debian package tshark) not found");
    }
    is_there
}
