//! The chain and the account that deploys on it.

use std::{path::PathBuf, time::Duration};

use alloy::primitives::{Address, U256, utils::parse_ether};
use hokusai_deploy::{BadFinality, Finality};
use url::Url;

use super::env::{ConfigError, Env, Secret, missing, wrong};

/// Everything about the chain that a worker needs, except the key.
#[derive(Clone)]
pub(crate) struct ChainConfig {
    pub(crate) providers: Vec<Url>,
    pub(crate) registry: String,
    pub(crate) chain_id: Option<u64>,
    pub(crate) finality: Option<Finality>,
    pub(crate) max_fee_per_gas_wei: u128,
    pub(crate) guards: Guards,
    /// How long what ended stays in the ledger; `None` for ever.
    pub(crate) ledger_retention: Option<Duration>,
}

/// What bounds the spending beyond the fee of a single transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guards {
    pub(crate) max_spend_wei_per_hour: Option<U256>,
    pub(crate) low_balance_wei: Option<U256>,
    pub(crate) min_balance_wei: U256,
}

/// Where the deployer's key comes from.
#[derive(Debug)]
pub(crate) enum DeployerKey {
    /// As it is.
    Plain(Secret),
    /// An encrypted file and its password.
    Keystore { path: PathBuf, password: Secret },
    /// In AWS KMS, by its id, ARN or alias.
    Kms { key_id: String },
}

/// The variables that can say where the key is.
const KEYS: [&str; 3] = ["DEPLOYER_PRIVATE_KEY", "HOKUSAI_DEPLOYER_KEYSTORE", "HOKUSAI_DEPLOYER_KMS_KEY_ID"];

const REGISTRY_NEEDED: &str = "name the token registry; `hokusai contracts deploy` makes one and prints its address";
const KEY_NEEDED: &str =
    "give the private key of the deployer account, 32 bytes in hex, or name a HOKUSAI_DEPLOYER_KEYSTORE or a HOKUSAI_DEPLOYER_KMS_KEY_ID";
const NEEDED: &str = "name the JSON-RPC address of an EVM node (only `demo` and `dev` bring a chain of their own)";

impl ChainConfig {
    pub(crate) fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let registry = env.required("HOKUSAI_REGISTRY_ADDRESS", REGISTRY_NEEDED)?;
        Ok(Self {
            providers: Self::providers(env)?,
            registry,
            chain_id: Self::chain_id(env)?,
            finality: Self::finality(env)?,
            max_fee_per_gas_wei: Self::max_fee_per_gas_wei(env)?,
            ledger_retention: Self::ledger_retention(env)?,
            guards: Guards {
                max_spend_wei_per_hour: ether(env, "HOKUSAI_MAX_SPEND_PER_HOUR")?,
                low_balance_wei: ether(env, "HOKUSAI_LOW_BALANCE")?,
                min_balance_wei: ether(env, "HOKUSAI_MIN_BALANCE")?.unwrap_or_default(),
            },
        })
    }

    /// What a worker needs and does not find, all of it: who sets up a worker wants to know at once.
    pub(crate) fn missing_for_worker(env: &Env<'_>) -> Vec<ConfigError> {
        let needed = [("WEB3_PROVIDER_URL", NEEDED), ("DEPLOYER_PRIVATE_KEY", KEY_NEEDED), ("HOKUSAI_REGISTRY_ADDRESS", REGISTRY_NEEDED)];
        let has_key = KEYS.iter().any(|name| env.text(name).is_some());
        let is_missing = |name| env.text(name).is_none() && !(has_key && name == "DEPLOYER_PRIVATE_KEY");
        needed.into_iter().filter(|(name, _)| is_missing(name)).map(|(name, why)| missing(name, why)).collect()
    }

    pub(crate) fn providers(env: &Env<'_>) -> Result<Vec<Url>, ConfigError> {
        let list = env.required("WEB3_PROVIDER_URL", NEEDED)?;
        let parse = |(place, text): (usize, &str)| {
            let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            // The text itself may hold a key, so only its place is told.
            url.ok_or_else(|| {
                wrong("WEB3_PROVIDER_URL", format!("address {} of the list is not an http:// or https:// address", place + 1))
            })
        };
        list.split(',').enumerate().map(parse).collect()
    }

    pub(crate) fn deployer_key(env: &Env<'_>) -> Result<DeployerKey, ConfigError> {
        let named: Vec<_> = KEYS.into_iter().filter(|name| env.text(name).is_some()).collect();
        if let [first, second, ..] = named[..] {
            return Err(wrong(second, format!("names a second key beside {first}; unset one of them")));
        }
        if let Some(key_id) = env.text("HOKUSAI_DEPLOYER_KMS_KEY_ID") {
            return Ok(DeployerKey::Kms { key_id });
        }
        if let Some(path) = env.text("HOKUSAI_DEPLOYER_KEYSTORE") {
            let password = env.secret("HOKUSAI_DEPLOYER_KEYSTORE_PASSWORD");
            let password =
                password.ok_or_else(|| missing("HOKUSAI_DEPLOYER_KEYSTORE_PASSWORD", "give the password of the keystore file"))?;
            return Ok(DeployerKey::Keystore { path: path.into(), password });
        }
        env.secret("DEPLOYER_PRIVATE_KEY").map(DeployerKey::Plain).ok_or_else(|| missing("DEPLOYER_PRIVATE_KEY", KEY_NEEDED))
    }

    /// The address that the deployer's key must have.
    pub(crate) fn deployer_address(env: &Env<'_>) -> Result<Option<Address>, ConfigError> {
        const NAME: &str = "HOKUSAI_DEPLOYER_ADDRESS";
        let parse = |text: String| hokusai_event::Address::parse(&text).map_err(|invalid| wrong(NAME, invalid.problem));
        let address = env.text(NAME).map(parse).transpose()?;
        Ok(address.map(|address| Address::from(address.bytes())))
    }

    pub(crate) fn chain_id(env: &Env<'_>) -> Result<Option<u64>, ConfigError> {
        env.text("HOKUSAI_CHAIN_ID").map(|_| env.number("HOKUSAI_CHAIN_ID", 0)).transpose()
    }

    fn ledger_retention(env: &Env<'_>) -> Result<Option<Duration>, ConfigError> {
        const NAME: &str = "HOKUSAI_LEDGER_RETENTION";
        const LEAST: Duration = Duration::from_secs(86_400);
        let retention = env.seconds(NAME, 90 * LEAST)?;
        if !retention.is_zero() && retention < LEAST {
            // Finals are looked at again for an hour, and people look for longer.
            return Err(wrong(NAME, "must be a day (86400) at least, or 0 to keep everything"));
        }
        Ok((!retention.is_zero()).then_some(retention))
    }

    pub(crate) fn finality(env: &Env<'_>) -> Result<Option<Finality>, ConfigError> {
        const NAME: &str = "HOKUSAI_CONFIRMATIONS";
        env.text(NAME).map(|text| text.parse().map_err(|error: BadFinality| wrong(NAME, error.to_string()))).transpose()
    }

    pub(crate) fn max_fee_per_gas_wei(env: &Env<'_>) -> Result<u128, ConfigError> {
        const NAME: &str = "HOKUSAI_MAX_FEE_GWEI";
        let gwei: f64 = env.number(NAME, 200.0)?;
        if !(gwei.is_finite() && gwei > 0.0 && gwei < 1e9) {
            return Err(wrong(NAME, format!("`{gwei}` is not a fee between 0 and 1,000,000,000 gwei")));
        }
        // Exact for any fee a person writes: below 10^18, and rounded to whole wei.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above to lie between 0 and 10^18")]
        Ok((gwei * 1e9).round() as u128)
    }
}

/// An amount of ether, exactly.
fn ether(env: &Env<'_>, name: &'static str) -> Result<Option<U256>, ConfigError> {
    let Some(text) = env.text(name) else { return Ok(None) };
    let amount = if text.starts_with('-') { None } else { parse_ether(&text).ok() };
    amount.map(Some).ok_or_else(|| wrong(name, format!("`{text}` is not an amount of ether such as 0.25")))
}
