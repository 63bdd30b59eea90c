//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`), exact.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

const NANO: i128 = 1_000_000_000;
/// Longest text of a quantity, in bytes.
pub const MAX_QUANTITY: usize = 64;

/// Text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantityError {
    /// It has another form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$': {0:?}")]
    Format(String),
    /// Its suffix is unknown.
    #[error("unable to parse quantity's suffix: {0:?}")]
    Suffix(String),
    /// It is too large to compute with.
    #[error("the quantity is too large: {0:?}")]
    Range(String),
}

/// Which suffixes a quantity is printed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `Ki`, `Mi`, ...
    Binary,
    /// `m`, `k`, `M`, ...
    #[default]
    Decimal,
    /// `e3`, `e6`, ...
    Exponent,
}

/// An exact amount, in units of 10⁻⁹. What is finer is rounded up when parsed, as Kubernetes does.
///
/// Two quantities are equal when their amounts are, however they are printed. Arithmetic saturates.
///
/// ```
/// use wharf_core::quantity::Quantity;
/// let a: Quantity = "1.5Gi".parse()?;
/// assert_eq!(a, "1536Mi".parse()?);
/// assert_eq!(a.to_string(), "1536Mi");
/// assert_eq!("0.1".parse::<Quantity>()?.milli(), 100);
/// # Ok::<(), wharf_core::quantity::QuantityError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::Decimal };

    /// A whole amount.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nano: i128::from(units) * NANO, format }
    }
    /// Thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }
    /// The exact amount in units of 10⁻⁹.
    pub fn nano(&self) -> i128 {
        self.nano
    }
    /// Whole units, rounded up.
    pub fn value(&self) -> i64 {
        saturate(div_up(self.nano, NANO))
    }
    /// Thousandths, rounded up; CPU is counted in these.
    pub fn milli(&self) -> i64 {
        saturate(div_up(self.nano, NANO / 1000))
    }
    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }
    /// Whether it is below nothing.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }
    /// Which suffixes it is printed with.
    pub fn format(&self) -> Format {
        self.format
    }
    /// As an API object carries it, in canonical form.
    pub fn to_api(&self) -> ApiQuantity {
        ApiQuantity(self.to_string())
    }
}

impl TryFrom<&ApiQuantity> for Quantity {
    type Error = QuantityError;
    fn try_from(quantity: &ApiQuantity) -> Result<Self, QuantityError> {
        quantity.0.parse()
    }
}

/// Round away from zero, as `resource.Quantity` scales.
fn div_up(n: i128, d: i128) -> i128 {
    let q = n / d;
    if n % d == 0 { q } else { q + n.signum() }
}

fn saturate(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError::Format(text.chars().take(MAX_QUANTITY).collect());
        let range = || QuantityError::Range(text.into());
        if text.len() > MAX_QUANTITY {
            return Err(bad());
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(bad());
        }
        let (format, binary, exponent) = parse_suffix(suffix)?;
        // The number as an integer times ten to the minus digits.
        let fraction = fraction.trim_end_matches('0');
        let mut mantissa: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let digit = i128::from(digit - b'0');
            mantissa = mantissa.checked_mul(10).and_then(|m| m.checked_add(digit)).ok_or_else(range)?;
        }
        if mantissa == 0 {
            return Ok(Self { nano: 0, format });
        }
        mantissa = mantissa.checked_mul(1i128 << binary).ok_or_else(range)?;
        let digits = i64::try_from(fraction.len()).map_err(|_| range())?;
        let scale = i64::from(exponent) + 9 - digits;
        let nano = if scale >= 0 {
            let power = u32::try_from(scale).ok().and_then(|s| 10i128.checked_pow(s)).ok_or_else(range)?;
            mantissa.checked_mul(power).ok_or_else(range)?
        } else {
            // Finer than nano: rounded up, never to nothing.
            let power = u32::try_from(-scale).ok().and_then(|s| 10i128.checked_pow(s)).unwrap_or(i128::MAX);
            div_up(mantissa, power)
        };
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

/// Format, power of two, power of ten.
fn parse_suffix(suffix: &str) -> Result<(Format, u32, i32), QuantityError> {
    let decimal = |e| Ok((Format::Decimal, 0, e));
    let binary = |e| Ok((Format::Binary, e, 0));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let bad = || QuantityError::Suffix(suffix.into());
            let digits = suffix.strip_prefix(['e', 'E']).ok_or_else(bad)?;
            let exponent: i32 = digits.parse().map_err(|_| bad())?;
            if exponent.abs() > 1000 { Err(bad()) } else { Ok((Format::Exponent, 0, exponent)) }
        }
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const EXPONENT: [&str; 10] = ["e-9", "e-6", "e-3", "", "e3", "e6", "e9", "e12", "e15", "e18"];
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Below 1024 and for fractions, binary quantities are printed as decimal ones.
        if self.format == Format::Binary && self.nano % NANO == 0 && self.nano.unsigned_abs() >= 1024 * NANO.unsigned_abs() {
            let (mut value, mut at) = (self.nano / NANO, 0);
            while value % 1024 == 0 && at + 1 < BINARY.len() {
                value /= 1024;
                at += 1;
            }
            return write!(f, "{value}{}", BINARY[at]);
        }
        let suffixes = if self.format == Format::Exponent { EXPONENT } else { DECIMAL };
        let (mut value, mut at) = (self.nano, 0);
        while value % 1000 == 0 && at + 1 < suffixes.len() {
            value /= 1000;
            at += 1;
        }
        write!(f, "{value}{}", suffixes[at])
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}
impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        // As Kubernetes: an empty sum takes over the form of what is added.
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: self.nano.saturating_sub(other.nano), format }
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

/// A resource list (`cpu: 100m`) with its amounts parsed.
///
/// # Errors
/// At the first amount that is not a quantity.
pub fn parse_list(list: &BTreeMap<String, ApiQuantity>) -> Result<BTreeMap<String, Quantity>, QuantityError> {
    list.iter().map(|(name, quantity)| Ok((name.clone(), Quantity::try_from(quantity)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn canonical_forms_are_kubernetes_own() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1500000", "1500k"),
            ("1e3", "1e3"),
            ("12e5", "1200e3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("-1.5", "-1500m"),
            ("+2k", "2k"),
            ("0.1n", "1n"),
            ("1e-12", "1e-9"),
            ("100u", "100u"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "",
            ".",
            "-",
            "1.2.3",
            "1K",
            "1ki",
            "abc",
            "1 ",
            "1e",
            "1e1.5",
            "--1",
            "Gi",
            "1mm",
            "é",
            "1e99999",
            "1e40",
            "9999999999999999999999999999999999999999",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert!("1".repeat(65).parse::<Quantity>().is_err());
    }

    #[test]
    fn compares_and_adds_exactly() {
        assert_eq!(q("0.1") + q("0.2"), q("300m"));
        assert!(q("1G") < q("1Gi"));
        assert_eq!(q("1Gi") - q("1024Mi"), Quantity::ZERO);
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!([q("1"), q("250m")].into_iter().sum::<Quantity>().to_string(), "1250m");
    }

    #[test]
    fn rounds_away_from_nothing() {
        assert_eq!(q("1m").value(), 1);
        assert_eq!(q("-1m").value(), -1);
        assert_eq!(q("100u").milli(), 1);
        assert_eq!(q("9E").value(), 9_000_000_000_000_000_000);
        assert_eq!(q("10E").value(), i64::MAX);
    }
}
