//! Keys that sign transactions.
//!
//! [`Signer`] asks for no more than a signature over a hash, which a key service can give without showing the key.
//! [`LocalSigner`] holds a key in memory; it is wiped when dropped and never printed, and no error repeats what was given.
//! [`KmsSigner`] holds none.

mod kms;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::Encodable2718,
    primitives::{Address, B256, Signature},
    signers::{SignerSync, local::PrivateKeySigner},
};
use async_trait::async_trait;
use zeroize::Zeroizing;

pub use self::kms::{BadKmsKey, KmsSigner};

/// The account that deploys.
#[async_trait]
pub trait Signer: fmt::Debug + Send + Sync {
    /// Its address.
    fn address(&self) -> Address;

    /// Its signature over a transaction's hash.
    async fn sign_hash(&self, hash: &B256) -> Result<Signature, SignError>;
}

/// The key could not sign. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("the deployer key cannot sign: {0}")]
pub struct SignError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// `DEPLOYER_PRIVATE_KEY` is no key. It says what is wrong and repeats nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKey {
    /// It has the wrong length.
    #[error("a private key is 64 hexadecimal digits, with or without 0x before them; this text has {digits}")]
    Length {
        /// How many signs it has.
        digits: usize,
    },
    /// It has signs that are no hexadecimal digits.
    #[error("a private key is 64 hexadecimal digits, with or without 0x before them; this text has other signs among its 64")]
    Digits,
    /// The number is zero or not below the order of the curve.
    #[error("this number is no private key of the curve secp256k1")]
    Range,
}

/// A keystore file gives no key. It names the file and repeats nothing of the password or the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadKeystore {
    /// The file cannot be read.
    #[error("the keystore {path} cannot be read: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no keystore.
    #[error("{path} is no Ethereum keystore of version 3 (as geth, clef and `cast wallet` write): {problem}")]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The password does not open it.
    #[error("the password does not open the keystore {path}")]
    Password {
        /// Which.
        path: PathBuf,
    },
}

/// A key held in memory.
pub struct LocalSigner {
    key: PrivateKeySigner,
}

impl LocalSigner {
    /// Reads a key as in `DEPLOYER_PRIVATE_KEY`: hexadecimal, with or without `0x`.
    pub fn from_hex(text: &str) -> Result<Self, BadKey> {
        let text = text.trim();
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let count = digits.chars().count();
        if count != 64 {
            return Err(BadKey::Length { digits: count });
        }
        let mut bytes = Zeroizing::new([0_u8; 32]);
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        PrivateKeySigner::from_slice(bytes.as_slice()).map(|key| Self { key }).map_err(|_| BadKey::Range)
    }
}

impl LocalSigner {
    /// Opens an encrypted keystore file, version 3 of the "Web3 secret storage" that geth, clef and `cast wallet` write. It takes
    /// as long as the file demands, a second or so: not for an async context that must not stall.
    pub fn from_keystore(path: &Path, password: &str) -> Result<Self, BadKeystore> {
        let format = |problem: String| BadKeystore::Format { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|source| BadKeystore::File { path: path.to_owned(), source })?;
        check_keystore(&text).map_err(format)?;
        match PrivateKeySigner::decrypt_keystore(path, password) {
            Ok(key) => Ok(Self { key }),
            // Its type is not public; its words are these.
            Err(error) if error.to_string() == "Mac Mismatch" => Err(BadKeystore::Password { path: path.to_owned() }),
            Err(error) => Err(format(error.to_string())),
        }
    }
}

/// What the decryption takes for granted.
fn check_keystore(text: &str) -> Result<(), String> {
    let keystore: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let crypto = keystore.get("crypto").ok_or("it has no `crypto`")?;
    if crypto["kdfparams"]["dklen"] != 32 {
        return Err("`crypto.kdfparams.dklen` is not 32".to_owned());
    }
    if crypto["cipher"] != "aes-128-ctr" || crypto["cipherparams"]["iv"].as_str().is_none_or(|iv| iv.len() != 32) {
        return Err("`crypto.cipher` is not aes-128-ctr with an `iv` of 16 bytes".to_owned());
    }
    Ok(())
}

fn hex_digit(digit: u8) -> Result<u8, BadKey> {
    let value = char::from(digit).to_digit(16).ok_or(BadKey::Digits)?;
    u8::try_from(value).map_err(|_| BadKey::Digits)
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSigner({}, key hidden)", self.key.address())
    }
}

#[async_trait]
impl Signer for LocalSigner {
    fn address(&self) -> Address {
        self.key.address()
    }

    async fn sign_hash(&self, hash: &B256) -> Result<Signature, SignError> {
        self.key.sign_hash_sync(hash).map_err(|error| SignError(error.into()))
    }
}

/// A signed transaction as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedBytes {
    pub(crate) hash: B256,
    pub(crate) raw: Vec<u8>,
}

pub(crate) async fn sign(signer: &dyn Signer, transaction: TxEip1559) -> Result<SignedBytes, SignError> {
    let signature = signer.sign_hash(&transaction.signature_hash()).await?;
    let envelope = TxEnvelope::from(transaction.into_signed(signature));
    Ok(SignedBytes { hash: *envelope.tx_hash(), raw: envelope.encoded_2718() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn a_key_is_read_with_and_without_its_prefix() {
        for text in [KEY.to_owned(), format!("0x{KEY}"), format!(" 0X{}\n", KEY.to_uppercase())] {
            let signer = LocalSigner::from_hex(&text).expect("a key");
            assert_eq!(signer.address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        }
    }

    /// Python's hashlib and the definition of the format made it, with few rounds.
    const KEYSTORE: &str = r#"{"crypto": {"cipher": "aes-128-ctr", "cipherparams": {"iv": "000102030405060708090a0b0c0d0e0f"}, "ciphertext": "208aa7eba0553f8ab34ba40a36e4225d469e6081d412efaa70468f73fe59d1b1", "kdf": "pbkdf2", "kdfparams": {"c": 1024, "dklen": 32, "prf": "hmac-sha256", "salt": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}, "mac": "4a1567861b31016fb62e0ca6210739b30df7968b2003e4eb5c50069c37e59585"}, "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}"#;

    #[test]
    fn a_keystore_is_opened_by_its_password() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deployer.json");
        std::fs::write(&path, KEYSTORE).expect("written");
        let signer = LocalSigner::from_keystore(&path, "correct horse").expect("a key");
        assert_eq!(signer.address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let error = LocalSigner::from_keystore(&path, "wrong horse").expect_err("no key");
        assert!(matches!(error, BadKeystore::Password { .. }) && !format!("{error} {error:?}").contains("horse"), "{error}");
        std::fs::write(&path, KEYSTORE.replace("32,", "16,")).expect("written");
        assert!(matches!(LocalSigner::from_keystore(&path, "correct horse"), Err(BadKeystore::Format { .. })));
        let missing = LocalSigner::from_keystore(&dir.path().join("missing"), "").expect_err("no file");
        assert!(matches!(missing, BadKeystore::File { .. }), "{missing}");
    }

    #[test]
    fn neither_an_error_nor_debug_shows_the_key() {
        let bad = [KEY[1..].to_owned(), format!("0x{}zz", &KEY[2..]), "f".repeat(64), "0".repeat(64), String::new()];
        for text in bad {
            let error = LocalSigner::from_hex(&text).expect_err("no key");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(&KEY[2..10]) && !shown.contains("ffff"), "{shown}");
        }
        let shown = format!("{:?}", LocalSigner::from_hex(KEY).expect("a key"));
        assert!(!shown.contains("ac09"), "{shown}");
    }
}
