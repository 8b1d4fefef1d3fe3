//! Quantities as operators write them: `10k/s`, `1h30m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest [`Rate`], events a second. Beyond it the GCRA interval falls below 100 ns, where rounding
/// it to whole nanoseconds would miss the rate by more than 1 %.
const MAX_PER_SECOND: u64 = 10_000_000;

/// The longest [`HumanDuration`].
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why a text is no rate or duration, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct UnitError {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// The time unit of a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
}

impl Per {
    const fn secs(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }
}

/// Events per second, minute or hour: `100/s`, `10k/s`, `1M/h`. Never zero, at most 10M/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1, at most [`MAX_PER_SECOND`] × the unit's seconds.
    count: u64,
    per: Per,
}

impl Rate {
    /// So many events a second; `None` when zero or above 10M/s.
    pub const fn per_second(count: u64) -> Option<Self> {
        if count == 0 || count > MAX_PER_SECOND {
            None
        } else {
            Some(Self {
                count,
                per: Per::Second,
            })
        }
    }

    /// The time between two events, nanoseconds, rounded up so that the rate is never exceeded.
    ///
    /// No overflow: the longest unit is an hour, 3.6e12 ns, and `count` is at least 1. So the result is
    /// at most 3.6e12 (and at least 100); times a burst of up to 1,000,000 it is 3.6e18, still below
    /// 2^64 = 1.8e19.
    pub const fn interval_ns(self) -> u64 {
        (self.per.secs() * 1_000_000_000).div_ceil(self.count)
    }
}

const RATE_REMEDY: &str =
    "write a whole number, an optional k or M, and /s, /m or /h: \"500/s\", \"10k/s\", \"1/m\"";

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = |what: String| UnitError {
            what,
            remedy: RATE_REMEDY.to_owned(),
        };
        let no_rate = || error(format!("`{}` is no rate", text.escape_debug()));
        let (number, per) = text.split_once('/').ok_or_else(no_rate)?;
        let per = match per {
            "s" => Per::Second,
            "m" => Per::Minute,
            "h" => Per::Hour,
            _ => return Err(no_rate()),
        };
        let (digits, factor) = match number.as_bytes().last() {
            Some(b'k') => (&number[..number.len() - 1], 1_000),
            Some(b'M') => (&number[..number.len() - 1], 1_000_000),
            _ => (number, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(no_rate());
        }
        // Only a number too large for u64 can fail here, and that is above the limit anyway.
        let count = digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .unwrap_or(u64::MAX);
        if count == 0 {
            return Err(UnitError {
                what: format!("the rate `{text}` is zero"),
                remedy: "write at least 1/h".to_owned(),
            });
        }
        // MAX_PER_SECOND × 3600 is 3.6e10: no overflow.
        if count > MAX_PER_SECOND * per.secs() {
            return Err(UnitError {
                what: format!("the rate `{text}` is above 10M/s"),
                remedy: "write at most 10M/s".to_owned(),
            });
        }
        Ok(Self { count, per })
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number, an optional k or M, and /s, /m or /h, as in \"10k/s\"; at most 10M/s.",
            "type": "string",
            "pattern": "^[0-9]+[kM]?/[smh]$"
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Per::Second => "s",
            Per::Minute => "m",
            Per::Hour => "h",
        };
        match self.count {
            n if n % 1_000_000 == 0 => write!(f, "{}M/{unit}", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{}k/{unit}", n / 1_000),
            n => write!(f, "{n}/{unit}"),
        }
    }
}

/// A duration as written: `250ms`, `5s`, `1h30m`, `7d`; units from the largest to the smallest, at most
/// 365 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

/// Units from the largest to the smallest, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl HumanDuration {
    /// The duration, cut to whole milliseconds; `None` when beyond 365 days.
    pub fn new(duration: Duration) -> Option<Self> {
        let whole = Duration::from_millis(u64::try_from(duration.as_millis()).ok()?);
        (whole <= MAX_DURATION).then_some(Self(whole))
    }

    /// The plain duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let no_duration = || {
            UnitError {
            what: format!("`{}` is no duration", text.escape_debug()),
            remedy: "write whole numbers with units, the largest first: \"250ms\", \"5s\", \"1h30m\", \"7d\""
                .to_owned(),
        }
        };
        let too_long = || UnitError {
            what: format!("the duration `{text}` is longer than 365 days"),
            remedy: "write at most 365d".to_owned(),
        };
        if text.is_empty() {
            return Err(no_duration());
        }
        let mut rest = text;
        let mut units = DURATION_UNITS.iter();
        let mut total_ms = 0_u64;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let letters = after.len()
                - after
                    .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                    .len();
            let (name, after) = after.split_at(letters);
            if number.is_empty() {
                return Err(no_duration());
            }
            // `units` only moves forward: a unit that is repeated or out of order is not found.
            let &(_, factor) = units
                .find(|(unit, _)| *unit == name)
                .ok_or_else(no_duration)?;
            total_ms = number
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(factor))
                .and_then(|ms| total_ms.checked_add(ms))
                .ok_or_else(too_long)?;
            rest = after;
        }
        Self::new(Duration::from_millis(total_ms)).ok_or_else(too_long)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Whole numbers with units, the largest first, as in \"1h30m\" or \"250ms\".",
            "type": "string",
            "pattern": "^([0-9]+(d|h|m|s|ms))+$"
        })
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        // MAX_DURATION is 3.2e10 ms: the cast loses nothing.
        let mut left_ms = self.0.as_millis() as u64;
        for (unit, factor) in DURATION_UNITS {
            let count = left_ms / factor;
            left_ms %= factor;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

macro_rules! serde_as_text {
    ($($t:ty),+) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|e: UnitError| {
                    serde::de::Error::custom(format_args!("{}; {}", e.what, e.remedy))
                })
            }
        }
    )+};
}

serde_as_text!(Rate, HumanDuration);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_and_their_intervals_rounded_up() {
        for (text, interval_ns) in [
            ("1/s", 1_000_000_000),
            ("3/s", 333_333_334),
            ("500/s", 2_000_000),
            ("10k/s", 100_000),
            ("10M/s", 100),
            ("1/m", 60_000_000_000),
            ("600M/m", 100),
            ("1/h", 3_600_000_000_000),
            ("36000M/h", 100),
        ] {
            assert_eq!(
                text.parse::<Rate>().unwrap().interval_ns(),
                interval_ns,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_a_remedy() {
        for (text, what) in [
            ("", "is no rate"),
            ("100", "is no rate"),
            ("/s", "is no rate"),
            ("k/s", "is no rate"),
            ("-1/s", "is no rate"),
            ("+1/s", "is no rate"),
            ("1.5k/s", "is no rate"),
            ("1K/s", "is no rate"),
            ("1 /s", "is no rate"),
            ("1/S", "is no rate"),
            ("1/s/s", "is no rate"),
            ("1é/s", "is no rate"),
            ("0/s", "is zero"),
            ("0k/h", "is zero"),
            ("10000001/s", "above 10M/s"),
            ("11M/s", "above 10M/s"),
            ("99999999999999999999999/s", "above 10M/s"),
            ("18446744073709551615M/h", "above 10M/s"),
        ] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.what.contains(what), "{text:?}: {error:?}");
            assert!(!error.remedy.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("90m", 5_400_000),
            ("365d", 31_536_000_000),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<HumanDuration>().unwrap().get(),
                Duration::from_millis(ms),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for (text, what) in [
            ("", "is no duration"),
            ("5", "is no duration"),
            ("s", "is no duration"),
            ("5 s", "is no duration"),
            ("-5s", "is no duration"),
            ("1.5h", "is no duration"),
            ("5s1h", "is no duration"),
            ("5s5s", "is no duration"),
            ("5sec", "is no duration"),
            ("5µs", "is no duration"),
            ("366d", "longer than 365 days"),
            ("365d1ms", "longer than 365 days"),
            ("18446744073709551615d", "longer than 365 days"),
            ("99999999999999999999s", "longer than 365 days"),
        ] {
            let error = text.parse::<HumanDuration>().unwrap_err();
            assert!(error.what.contains(what), "{text:?}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn every_rate_reads_back_as_itself(count in 1_u64..=MAX_PER_SECOND, scale in 0_u32..3, per in 0..3) {
            let per = [Per::Second, Per::Minute, Per::Hour][per as usize];
            let count = (count * 1000_u64.pow(scale)).min(MAX_PER_SECOND * per.secs());
            let rate = Rate { count, per };
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
            prop_assert!(rate.interval_ns() >= 100);
            prop_assert!(u128::from(rate.interval_ns()) * u128::from(count) >= u128::from(per.secs()) * 1_000_000_000);
        }

        #[test]
        fn every_duration_reads_back_as_itself(ms in 0_u64..=365 * 86_400_000) {
            let duration = HumanDuration::new(Duration::from_millis(ms)).unwrap();
            prop_assert_eq!(duration.to_string().parse::<HumanDuration>(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "[0-9a-zµ/ .-]{0,24}") {
            let _ = text.parse::<Rate>();
            let _ = text.parse::<HumanDuration>();
        }
    }
}
