//! The type of a setting, how it is written and its bounds; and the macro that defines a struct of
//! settings with its table.

use std::{net::IpAddr, time::Duration};

use crate::{network::Network, units};

/// The TOML type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TomlType {
    /// A string.
    Text,
    /// An integer.
    Integer,
    /// A boolean.
    Boolean,
    /// An array of strings, which may also be written as one string with commas.
    Texts,
}

/// What the number of a setting counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Its bounds are milliseconds; an integer in TOML is seconds.
    Duration,
    /// Bytes.
    Size,
    /// Things.
    Count,
}

/// The value of a setting.
pub(crate) trait Value: Sized {
    /// The expected value, in words.
    const TYPE: &'static str;
    const TOML: &'static [TomlType];
    /// What its number counts; `None` if it is not a number.
    const UNIT: Option<Unit> = None;
    /// All values, if they can be listed.
    const VALUES: &'static [&'static str] = &[];
    fn parse(text: &str) -> Option<Self>;
    fn show(&self) -> String;
    /// The number that bounds are compared with.
    fn number(&self) -> Option<u64> {
        None
    }
}

impl Value for Duration {
    const TYPE: &'static str = "a duration such as \"10s\" or \"500ms\"";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Integer];
    const UNIT: Option<Unit> = Some(Unit::Duration);
    fn parse(text: &str) -> Option<Self> {
        units::duration(text)
    }
    fn show(&self) -> String {
        match self.as_millis() {
            ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
            ms => format!("{ms}ms"),
        }
    }
    fn number(&self) -> Option<u64> {
        u64::try_from(self.as_millis()).ok()
    }
}

/// A size in bytes; counts are `u32`.
impl Value for u64 {
    const TYPE: &'static str = "a size such as \"64MiB\" or a number of bytes";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Integer];
    const UNIT: Option<Unit> = Some(Unit::Size);
    fn parse(text: &str) -> Option<Self> {
        units::size(text)
    }
    fn show(&self) -> String {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if *self >= 1 << shift && self.is_multiple_of(1 << shift) {
                return format!("{}{unit}", self >> shift);
            }
        }
        self.to_string()
    }
    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl Value for u32 {
    const TYPE: &'static str = "a whole number";
    const TOML: &'static [TomlType] = &[TomlType::Integer];
    const UNIT: Option<Unit> = Some(Unit::Count);
    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn number(&self) -> Option<u64> {
        Some(u64::from(*self))
    }
}

impl Value for u16 {
    const TYPE: &'static str = "a port number (0 to 65535)";
    const TOML: &'static [TomlType] = &[TomlType::Integer];
    const UNIT: Option<Unit> = Some(Unit::Count);
    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for bool {
    const TYPE: &'static str = "true or false";
    const TOML: &'static [TomlType] = &[TomlType::Boolean];
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const TYPE: &'static str = "a text";
    const TOML: &'static [TomlType] = &[TomlType::Text];
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for IpAddr {
    const TYPE: &'static str = "an IP address such as \"0.0.0.0\"";
    const TOML: &'static [TomlType] = &[TomlType::Text];
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            text => text
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .ok(),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Vec<Network> {
    const TYPE: &'static str = "networks such as [\"10.0.0.0/8\", \"fd00::/8\"]";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Texts];
    fn parse(text: &str) -> Option<Self> {
        let all = text.split(',').map(str::trim);
        all.filter(|text| !text.is_empty())
            .map(|text| text.parse().ok())
            .collect()
    }
    fn show(&self) -> String {
        let all: Vec<String> = self.iter().map(ToString::to_string).collect();
        all.join(",")
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: &'static str = T::TYPE;
    const TOML: &'static [TomlType] = T::TOML;
    const UNIT: Option<Unit> = T::UNIT;
    const VALUES: &'static [&'static str] = T::VALUES;
    fn parse(text: &str) -> Option<Self> {
        T::parse(text).map(Some)
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, T::show)
    }
}

/// A value that a setting cannot have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is `{text}`{problem}")]
pub(crate) struct SettingError {
    /// The name of the setting, as it was set.
    name: String,
    /// The value, as it was written.
    text: String,
    problem: ValueProblem,
}

/// What is wrong with the value of a setting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ValueProblem {
    #[error(", expected {0}")]
    WrongType(&'static str),
    #[error(": the least is {0}")]
    TooSmall(String),
    #[error(": the most is {0}")]
    TooLarge(String),
}

/// Parses a value and checks its bounds.
pub(crate) fn check<T: Value>(
    name: &str,
    text: &str,
    (min, max): (u64, u64),
) -> Result<T, SettingError> {
    let failed = |problem| SettingError {
        name: name.to_owned(),
        text: text.to_owned(),
        problem,
    };
    let value = T::parse(text).ok_or_else(|| failed(ValueProblem::WrongType(T::TYPE)))?;
    match value.number() {
        Some(number) if number < min => Err(failed(ValueProblem::TooSmall(show_bound::<T>(min)))),
        Some(number) if number > max => Err(failed(ValueProblem::TooLarge(show_bound::<T>(max)))),
        _ => Ok(value),
    }
}

fn show_bound<T: Value>(bound: u64) -> String {
    if T::TYPE == Duration::TYPE {
        Duration::from_millis(bound).show()
    } else if T::TYPE == u64::TYPE {
        bound.show()
    } else {
        bound.to_string()
    }
}

/// Defines a struct of settings with its defaults, its table and its readers.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $struct:ident in $table:literal {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $type:ty = $default:expr, $min:expr => $max:expr;
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $struct {
            $( $(#[doc = $doc])+ pub $name: $type, )+
        }

        impl Default for $struct {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }

        impl $struct {
            /// Every setting, for the documentation and the JSON Schema.
            #[must_use]
            pub fn table() -> Vec<$crate::settings::Setting> {
                let default = Self::default();
                vec![ $( $crate::settings::Setting {
                    name: stringify!($name),
                    expected: <$type as $crate::setting::Value>::TYPE,
                    toml: <$type as $crate::setting::Value>::TOML,
                    unit: <$type as $crate::setting::Value>::UNIT,
                    values: <$type as $crate::setting::Value>::VALUES,
                    bounds: ($min, $max),
                    default: $crate::setting::Value::show(&default.$name),
                    doc: concat!($($doc),+).trim(),
                }, )+ ]
            }

            /// Takes over the settings of a table of a file.
            pub(crate) fn read(&mut self, reader: &$crate::reader::Reader<'_>) {
                $(
                    let toml = <$type as $crate::setting::Value>::TOML;
                    let expected = <$type as $crate::setting::Value>::TYPE;
                    if let Some(text) = reader.scalar(stringify!($name), toml, expected) {
                        let name = concat!($table, ".", stringify!($name));
                        match $crate::setting::check(name, &text.value, ($min, $max)) {
                            Ok(value) => self.$name = value,
                            Err(error) => reader.problem(&text.at, error.to_string()),
                        }
                    }
                )+
            }

            /// The names of the settings that differ.
            #[must_use]
            pub fn changed(&self, other: &Self) -> Vec<&'static str> {
                let mut changed = Vec::new();
                $(
                    if self.$name != other.$name {
                        changed.push(stringify!($name));
                    }
                )+
                changed
            }

            /// Takes over the settings with these names from other settings.
            pub fn take_over(&mut self, names: &[&str], from: &Self) {
                $(
                    if names.contains(&stringify!($name)) {
                        self.$name = from.$name.clone();
                    }
                )+
            }

            #[allow(dead_code, reason = "not every table can be set by the environment and flags")]
            /// Takes over one setting. `None` if there is no setting with that name.
            #[allow(dead_code, reason = "tables of workers are not in the environment")]
            pub(crate) fn set(
                &mut self,
                name: &str,
                shown: &str,
                text: &str,
            ) -> Option<Result<(), $crate::setting::SettingError>> {
                match name {
                    $( stringify!($name) => Some(
                        $crate::setting::check(shown, text, ($min, $max))
                            .map(|value| self.$name = value)
                    ), )+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use settings;
