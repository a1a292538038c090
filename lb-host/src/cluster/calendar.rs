//! Where the box's clock stands in the calendar, and how kubectl tells ages.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lb_core::Instant;

/// The second, since 1970, at which the box's clock starts: 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600;

/// An instant as objects have it: to the second.
pub fn time(now: Instant) -> Time {
    let seconds = i64::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(START.saturating_add(seconds)).unwrap_or(Timestamp::MAX))
}

/// The instant of an object's time; the clock's start if it was before that.
pub fn instant(time: &Time) -> Instant {
    Instant::from_secs(u64::try_from(time.0.as_second() - START).unwrap_or(0))
}

/// How long ago a time was, as kubectl's AGE has it: `4s`, `2m5s`, `15m`, `3h20m`, `2d4h`, `9d`.
pub fn age(time: &Time, now: Instant) -> String {
    let seconds = now.saturating_since(instant(time)).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{part}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_as_kubectl_does() {
        // apimachinery's duration.HumanDuration, by its own test table.
        for (seconds, expected) in [
            (1, "1s"),
            (70, "70s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 600, "3h10m"),
            (8 * 3600, "8h"),
            (48 * 3600 - 1, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (8 * 86_400, "8d"),
            (2 * 365 * 86_400, "2y"),
            (2 * 365 * 86_400 + 86_400, "2y1d"),
            (8 * 365 * 86_400, "8y"),
        ] {
            let start = time(Instant::from_secs(5));
            assert_eq!(age(&start, Instant::from_secs(5 + seconds)), expected, "{seconds} s");
        }
    }

    #[test]
    fn a_time_is_its_instant_again() {
        assert_eq!(instant(&time(Instant::from_nanos(7_900_000_000))), Instant::from_secs(7));
    }
}
