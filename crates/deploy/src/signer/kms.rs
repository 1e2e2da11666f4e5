//! A key that stays in AWS KMS.
//!
//! KMS signs a hash and answers with DER: an `s` that falls on either side of half the curve's order, and no recovery id. Here
//! `s` is brought below the half (EIP-2), and the recovery id is the one that gives the address.
//!
//! Invariants: the address is pinned when the signer is made, and a signature that does not give it is refused, so that an alias
//! pointed at another key signs nothing. Every call ends within [`LIMIT`], which is well within a sender's lease.

use std::{fmt, time::Duration};

use alloy::{
    primitives::{Address, B256, Signature},
    signers::k256,
};
use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec},
};
use aws_types::SdkConfig;

use super::{SignError, Signer};

/// All tries of one call together.
const LIMIT: Duration = Duration::from_secs(10);
const TRY_LIMIT: Duration = Duration::from_secs(4);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;

/// The DER of a public key of secp256k1 up to its uncompressed point: nothing in it varies.
const SPKI_HEAD: [u8; 24] = [
    0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a, 0x03, 0x42,
    0x00, 0x04,
];

/// The key in KMS cannot be the deployer's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadKmsKey {
    /// KMS was asked and refused, or could not be asked.
    #[error("AWS KMS does not give the public key of {key_id}: {problem}")]
    Unavailable {
        /// Which.
        key_id: String,
        /// What was said, or what kept it from being asked.
        problem: String,
    },
    /// It is a key of another kind.
    #[error("the key {key_id} is {found}, and the deployer's must be ECC_SECG_P256K1 for SIGN_VERIFY")]
    Kind {
        /// Which.
        key_id: String,
        /// What it is.
        found: String,
    },
    /// Nobody said which address it must have.
    #[error("the key {key_id} has the address {address}: pin it, so that no other key can take its place")]
    Unpinned {
        /// Which.
        key_id: String,
        /// Its address.
        address: Address,
    },
    /// It is another key.
    #[error("the key {key_id} has the address {found}, and the pinned one is {pinned}")]
    Other {
        /// Which.
        key_id: String,
        /// What was asked for.
        pinned: Address,
        /// What is there.
        found: Address,
    },
}

/// What KMS answered is no signature of the pinned key.
#[derive(Debug, thiserror::Error)]
enum BadSignature {
    #[error("AWS KMS: {0}")]
    Refused(String),
    #[error("AWS KMS answered with no signature in DER")]
    Unreadable,
    #[error("AWS KMS signed with another key than that of {pinned}; is {key_id} an alias that was moved?")]
    OtherKey { key_id: String, pinned: Address },
}

/// Signs with a key in AWS KMS.
pub struct KmsSigner {
    client: Client,
    key_id: String,
    address: Address,
}

impl KmsSigner {
    /// A signer with the key of this id, ARN or alias, which must have the `pinned` address. Region, credentials and endpoint are
    /// those of `config`. While KMS cannot be reached the pin is believed: what was sent already can be seen through, and each
    /// signature is compared with it anyway.
    ///
    /// # Errors
    ///
    /// [`BadKmsKey::Unpinned`] names the address to pin; the others say what does not fit.
    pub async fn open(config: &SdkConfig, key_id: &str, pinned: Option<Address>) -> Result<Self, BadKmsKey> {
        let key_id = key_id.to_owned();
        let client = client(config);
        let address = match (public_address(&client, &key_id).await, pinned) {
            (Ok(found), Some(pinned)) if found == pinned => pinned,
            (Ok(found), Some(pinned)) => return Err(BadKmsKey::Other { key_id, pinned, found }),
            (Ok(address), None) => return Err(BadKmsKey::Unpinned { key_id, address }),
            (Err(Asked::Away(problem)), Some(pinned)) => {
                tracing::warn!(key_id, problem, "AWS KMS cannot be reached; nothing new is signed until it can");
                pinned
            }
            (Err(Asked::Away(problem) | Asked::Refused(problem)), _) => return Err(BadKmsKey::Unavailable { key_id, problem }),
            (Err(Asked::Kind(found)), _) => return Err(BadKmsKey::Kind { key_id, found }),
        };
        Ok(Self { client, key_id, address })
    }
}

/// Its own time limits and retries, whatever the environment says: the sender waits for each signature.
fn client(config: &SdkConfig) -> Client {
    let limits = TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).operation_attempt_timeout(TRY_LIMIT).operation_timeout(LIMIT);
    let retries = RetryConfig::standard().with_max_attempts(TRIES).with_initial_backoff(Duration::from_millis(200));
    Client::from_conf(Builder::from(config).timeout_config(limits.build()).retry_config(retries).build())
}

/// Why there is no public key.
enum Asked {
    Away(String),
    Refused(String),
    Kind(String),
}

async fn public_address(client: &Client, key_id: &str) -> Result<Address, Asked> {
    let answer = client.get_public_key().key_id(key_id).send().await.map_err(|error| {
        let words = words(&error);
        if is_away(&error) { Asked::Away(words) } else { Asked::Refused(words) }
    })?;
    let point = answer.public_key().and_then(|key| key.as_ref().strip_prefix(&SPKI_HEAD)).filter(|point| point.len() == 64);
    let fits = answer.key_spec() == Some(&KeySpec::EccSecgP256K1) && answer.key_usage() == Some(&KeyUsageType::SignVerify);
    match point.filter(|_| fits) {
        Some(point) => Ok(Address::from_raw_public_key(point)),
        None => {
            let spec = answer.key_spec().map_or("of no kind", KeySpec::as_str);
            let usage = answer.key_usage().map_or("nothing", KeyUsageType::as_str);
            Err(Asked::Kind(format!("{spec} for {usage}")))
        }
    }
}

/// Whether waiting may help: nothing was answered, or that KMS is busy or broken.
fn is_away<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout(),
        SdkError::ServiceError(service) => {
            service.raw().status().is_server_error() || service.err().code().is_some_and(|code| code.contains("Throttling"))
        }
        _ => false,
    }
}

/// What KMS said if it said anything; otherwise what went wrong, with its causes.
fn words<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error.as_service_error() {
        Some(said) => format!("{}: {}", said.code().unwrap_or("an error without a code"), said.message().unwrap_or("no message")),
        None => DisplayErrorContext(error).to_string(),
    }
}

#[async_trait]
impl Signer for KmsSigner {
    fn address(&self) -> Address {
        self.address
    }

    async fn sign_hash(&self, hash: &B256) -> Result<Signature, SignError> {
        let request = self.client.sign().key_id(&self.key_id).message(Blob::new(hash.as_slice())).message_type(MessageType::Digest);
        let answer = request.signing_algorithm(SigningAlgorithmSpec::EcdsaSha256).send().await;
        let answer = answer.map_err(|error| SignError(BadSignature::Refused(words(&error)).into()))?;
        let der = answer.signature().map(Blob::as_ref).unwrap_or_default();
        let signature = k256::ecdsa::Signature::from_der(der).map_err(|_| SignError(BadSignature::Unreadable.into()))?;
        ours(signature, hash, self.address)
            .ok_or_else(|| SignError(BadSignature::OtherKey { key_id: self.key_id.clone(), pinned: self.address }.into()))
    }
}

/// The signature in its low form with the recovery id that gives `address`; `None` if neither does.
fn ours(signature: k256::ecdsa::Signature, hash: &B256, address: Address) -> Option<Signature> {
    let signature = signature.normalize_s().unwrap_or(signature);
    [false, true]
        .map(|parity| Signature::from_signature_and_parity(signature, parity))
        .into_iter()
        .find(|signature| signature.recover_address_from_prehash(hash).is_ok_and(|found| found == address))
}

impl fmt::Debug for KmsSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmsSigner({}, {})", self.address, self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{U256, keccak256},
        signers::{SignerSync, local::PrivateKeySigner},
    };

    use super::*;

    const HALF_ORDER: &str = "0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";

    /// Each signature and its high twin come out as the same low one, and as no other key's.
    #[test]
    fn either_form_of_a_signature_becomes_the_low_one_of_its_key() {
        let key = PrivateKeySigner::random();
        let half: U256 = HALF_ORDER.parse().expect("a number");
        for number in 0..50_u32 {
            let hash = keccak256(number.to_be_bytes());
            let low = key.sign_hash_sync(&hash).expect("signed");
            let low_k256 = low.to_k256().expect("scalars");
            let high = k256::ecdsa::Signature::from_scalars(low_k256.r(), -low_k256.s()).expect("scalars");
            assert!(low.s() <= half && high.normalize_s().is_some());
            for form in [low_k256, high] {
                assert_eq!(ours(form, &hash, key.address()), Some(low));
                assert_eq!(ours(form, &hash, Address::repeat_byte(1)), None);
            }
        }
    }
}
