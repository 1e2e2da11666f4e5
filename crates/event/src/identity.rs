//! Names of things that outlive a message: a token's symbol, an account's address, a model version.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha3::{Digest, Keccak256};

use crate::invalid::{Invalid, quoted};

/// The symbol of a token. Kept as written; two that differ only in case are the same symbol, and compare as equal.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct TokenSymbol(String);

impl TokenSymbol {
    /// The longest symbol.
    pub const MAX_CHARS: usize = 64;

    /// Reads 1 to 64 of `A` to `Z`, `a` to `z`, `0` to `9` and `-`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=Self::MAX_CHARS).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Ok(Self(text.to_owned()));
        }
        let problem = format!("must be 1 to {} letters A-Z or a-z, digits or hyphens, is {}", Self::MAX_CHARS, quoted(text));
        Err(Invalid::new("token_symbol", problem))
    }

    /// The symbol as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The symbol's identity: in lower case.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl PartialEq for TokenSymbol {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for TokenSymbol {}

impl Hash for TokenSymbol {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for TokenSymbol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::str::FromStr for TokenSymbol {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for TokenSymbol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// An account on an EVM chain. Kept as written; compares by its 20 bytes.
#[derive(Debug, Clone)]
pub struct Address {
    text: String,
    bytes: [u8; 20],
}

impl Address {
    /// Reads `0x` and 40 hex digits; if the digits mix cases, they must be a valid EIP-55 checksum.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong_shape = || {
            let problem = format!("must be an address, 0x and 40 hex digits, is {}", quoted(text));
            Invalid::new("address", problem)
        };
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 40).ok_or_else(wrong_shape)?;
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(wrong_shape)?;
        }
        let address = Self { text: text.to_owned(), bytes };
        let mixed = digits.bytes().any(|byte| byte.is_ascii_uppercase()) && digits.bytes().any(|byte| byte.is_ascii_lowercase());
        if mixed && address.checksummed() != text {
            let problem = format!(
                "is an address whose mixed case is not its EIP-55 checksum, {}: a digit may be mistyped; \
                 write it in lower case if it is right",
                quoted(text)
            );
            return Err(Invalid::new("address", problem));
        }
        Ok(address)
    }

    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The 20 bytes.
    pub fn bytes(&self) -> [u8; 20] {
        self.bytes
    }

    /// The address with its EIP-55 checksum.
    pub fn checksummed(&self) -> String {
        checksummed(&self.bytes)
    }
}

impl From<[u8; 20]> for Address {
    fn from(bytes: [u8; 20]) -> Self {
        Self { text: checksummed(&bytes), bytes }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::str::FromStr for Address {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What makes two registrations the same model version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VersionKey {
    /// The token's symbol in lower case.
    pub token: String,
    /// The model's name, exactly.
    pub model_name: String,
    /// The model's version, exactly.
    pub model_version: String,
}

/// The `model_id` that we emit. On input it is opaque: nothing may be read out of it.
pub fn model_id(model_name: &str, model_version: &str, token: &str) -> String {
    format!("{model_name}/{model_version}/{token}")
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// EIP-55: a letter is upper case where the hash of the lower-case digits has a nibble of 8 or more.
fn checksummed(bytes: &[u8; 20]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let hash = Keccak256::digest(digits.as_bytes());
    let cased = digits.chars().enumerate().map(|(position, digit)| {
        let nibble = hash[position / 2] >> (if position % 2 == 0 { 4 } else { 0 }) & 0xf;
        if nibble >= 8 { digit.to_ascii_uppercase() } else { digit }
    });
    "0x".chars().chain(cased).collect()
}
