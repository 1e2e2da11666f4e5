use std::{cell::RefCell, collections::BTreeSet, sync::Mutex};

use super::{env::mask_address, queue::RedisAddress, *};

fn env(pairs: &[(&'static str, &'static str)]) -> Env<'static> {
    let pairs = pairs.to_vec();
    Env::new(move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

fn queue(pairs: &[(&'static str, &'static str)]) -> Result<QueueConfig, ConfigError> {
    QueueConfig::read(&env(pairs))
}

#[test]
fn nothing_set_is_the_local_queue() {
    let config = queue(&[]).unwrap();
    assert_eq!(config.backend, QueueBackend::Local);
    assert_eq!(config.name, "hokusai:model_ready_queue");
}

#[test]
fn redis_without_an_address_is_an_error() {
    assert_eq!(queue(&[("MESSAGE_QUEUE_TYPE", "redis")]).unwrap_err().variable, "REDIS_URL");
    assert_eq!(queue(&[("REDIS_AUTH_TOKEN", "t")]).unwrap_err().variable, "REDIS_URL");
    assert_eq!(queue(&[("REDIS_URL", "http://x")]).unwrap_err().variable, "REDIS_URL");
    assert_eq!(queue(&[("MESSAGE_QUEUE_TYPE", "kafka")]).unwrap_err().variable, "MESSAGE_QUEUE_TYPE");
}

#[test]
fn a_url_beats_a_host_and_a_token_implies_tls() {
    let redis = |pairs: &[(&'static str, &'static str)]| match queue(pairs).unwrap().backend {
        QueueBackend::Redis(redis) => redis,
        other @ QueueBackend::Local => panic!("{other:?}"),
    };
    let url = redis(&[("REDIS_URL", "redis://a:1/0"), ("REDIS_HOST", "b"), ("REDIS_PASSWORD", "p")]);
    assert_eq!(url.address, RedisAddress::Url(Secret::new("redis://a:1/0")));
    assert_eq!(url.password, Some(Secret::new("p")));
    let host = |tls| RedisAddress::Host { host: "b".into(), port: 6379, tls };
    assert_eq!(redis(&[("REDIS_HOST", "b")]).address, host(false));
    assert_eq!(redis(&[("REDIS_HOST", "b"), ("REDIS_AUTH_TOKEN", "t")]).address, host(true));
    assert_eq!(redis(&[("REDIS_HOST", "b"), ("REDIS_AUTH_TOKEN", "t"), ("HOKUSAI_REDIS_TLS", "false")]).address, host(false));
    assert!(!redis(&[("REDIS_HOST", "b"), ("REDIS_SSL_CERT_REQS", "none")]).verify_certificate);
}

#[test]
fn times_that_contradict_each_other_are_refused() {
    assert_eq!(queue(&[("PROCESSING_TIMEOUT", "0.5")]).unwrap_err().variable, "PROCESSING_TIMEOUT");
    assert_eq!(queue(&[("PROCESSING_TIMEOUT", "NaN")]).unwrap_err().variable, "PROCESSING_TIMEOUT");
    assert_eq!(queue(&[("PROCESSING_TIMEOUT", "10"), ("HOKUSAI_HANDLER_TIMEOUT", "10")]).unwrap_err().variable, "HOKUSAI_HANDLER_TIMEOUT");
    assert_eq!(queue(&[("MESSAGE_RETRY_MAX", "-1")]).unwrap_err().variable, "MESSAGE_RETRY_MAX");
}

#[test]
fn a_worker_without_its_chain_hears_which_variable_is_missing() {
    let read = |pairs: &[(&'static str, &'static str)]| ChainConfig::read(&env(pairs)).err().unwrap().variable;
    assert_eq!(read(&[]), "HOKUSAI_REGISTRY_ADDRESS");
    assert_eq!(read(&[("HOKUSAI_REGISTRY_ADDRESS", "0x1")]), "WEB3_PROVIDER_URL");
    assert_eq!(ChainConfig::deployer_key(&env(&[])).unwrap_err().variable, "DEPLOYER_PRIVATE_KEY");
}

#[test]
fn secrets_are_masked_wherever_a_value_is_shown() {
    assert_eq!(format!("{:?}", Secret::new("s3cret")), "***");
    assert_eq!(mask_address("redis://user:s3cret@host:6379/0"), "redis://:***@host:6379/0");
    assert_eq!(mask_address("https://mainnet.infura.io/v3/s3cret"), "https://mainnet.infura.io/***");
    assert_eq!(mask_address("postgres://u:s3cret@h/d?password=s3cret"), "postgres://:***@h/d?***");
    assert_eq!(mask_address("not an address s3cret"), "***");
    assert_eq!(mask_address("sqlite:/var/lib/x.db"), "sqlite:/var/lib/x.db");
    let all = env(&[
        ("DEPLOYER_PRIVATE_KEY", "s3cret"),
        ("REDIS_URL", "redis://:s3cret@h"),
        ("WEB3_PROVIDER_URL", "http://a/s3cret,http://b/s3cret"),
    ]);
    for variable in VARIABLES {
        assert!(!all.shown(variable).unwrap_or_default().contains("s3cret"), "{}", variable.name);
    }
    let error = ChainConfig::providers(&env(&[("WEB3_PROVIDER_URL", "ftp://s3cret")])).unwrap_err();
    assert!(!error.to_string().contains("s3cret"));
}

#[test]
fn every_variable_of_the_table_is_read() {
    let seen = Mutex::new(RefCell::new(BTreeSet::new()));
    let probe = |answers: &'static [(&'static str, &'static str)]| {
        let env = Env::new(|name| {
            seen.lock().unwrap().borrow_mut().insert(name.to_owned());
            answers.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        let _ = QueueConfig::read(&env);
        let _ = ChainConfig::read(&env);
        let _ = (ChainConfig::deployer_key(&env), ChainConfig::deployer_address(&env));
        let _ = (data_dir(&env), mlflow(&env), remote_api(&env), ServerConfig::read(&env), log_format(&env, true), log_level(&env));
        let _ = (operator(&env), env.text("DATABASE_URL"), mlflow_sweep(&env), webhook_secret(&env));
    };
    probe(&[]);
    probe(&[("HOKUSAI_DEPLOYER_KEYSTORE", "f")]);
    probe(&[
        ("REDIS_HOST", "h"),
        ("HOKUSAI_REGISTRY_ADDRESS", "x"),
        ("WEB3_PROVIDER_URL", "http://h"),
        ("MLFLOW_TRACKING_URI", "http://h"),
        ("HOKUSAI_API_URL", "http://h"),
    ]);
    let seen = seen.into_inner().unwrap().into_inner();
    let unread: Vec<_> = VARIABLES.iter().map(|variable| variable.name).filter(|name| !seen.contains(*name)).collect();
    assert_eq!(unread, [""; 0]);
}

/// `UPDATE_DOCS=1` rewrites the page.
#[test]
fn configuration_page_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == document(), "docs/configuration.md is stale: UPDATE_DOCS=1 cargo test -p hokusai configuration_page");
}

#[test]
fn a_keystore_stands_for_the_key_but_not_beside_it() {
    let error = |pairs: &[(&'static str, &'static str)]| ChainConfig::deployer_key(&env(pairs)).unwrap_err().variable;
    assert_eq!(error(&[("HOKUSAI_DEPLOYER_KEYSTORE", "f")]), "HOKUSAI_DEPLOYER_KEYSTORE_PASSWORD");
    assert_eq!(error(&[("HOKUSAI_DEPLOYER_KEYSTORE", "f"), ("DEPLOYER_PRIVATE_KEY", "k")]), "HOKUSAI_DEPLOYER_KEYSTORE");
    let pairs = [("HOKUSAI_DEPLOYER_KEYSTORE", "f"), ("HOKUSAI_DEPLOYER_KEYSTORE_PASSWORD", "s3cret")];
    let key = ChainConfig::deployer_key(&env(&pairs)).unwrap();
    assert!(matches!(key, DeployerKey::Keystore { .. }) && !format!("{key:?}").contains("s3cret"));
    let missing = ChainConfig::missing_for_worker(&env(&pairs));
    assert!(missing.iter().all(|error| error.variable != "DEPLOYER_PRIVATE_KEY"), "{missing:?}");
}

#[test]
fn amounts_of_ether_are_exact() {
    let read = |text: &'static str| {
        let pairs = [("HOKUSAI_REGISTRY_ADDRESS", "0x1"), ("WEB3_PROVIDER_URL", "http://h"), ("HOKUSAI_MIN_BALANCE", text)];
        ChainConfig::read(&env(&pairs)).map(|config| config.guards.min_balance_wei.to_string())
    };
    assert_eq!(read("0.1").unwrap(), "100000000000000000");
    assert_eq!(read("").unwrap(), "0");
    for text in ["-1", "much", "1e3"] {
        assert_eq!(read(text).unwrap_err().variable, "HOKUSAI_MIN_BALANCE", "{text}");
    }
}
