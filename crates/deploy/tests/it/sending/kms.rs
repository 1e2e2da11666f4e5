//! The deployer's key in KMS: signatures are the key's own, and a KMS that is away is an outage.

use std::{sync::Arc, time::Duration};

use alloy::primitives::{B256, keccak256};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::Credentials;
use hokusai_deploy::{BadKmsKey, DeploymentState, KmsSigner, Outage, Signer};
use hokusai_testbed::{ANVIL_KEYS, Kms, Mood};

use super::{
    ground::{Ground, Store, config, deployer, request, until_settled},
    outages::is,
};

async fn aws(kms: &Kms) -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::new("eu-central-1")).endpoint_url(kms.url());
    loader.credentials_provider(Credentials::new("id", "secret", None, None, "the test")).load().await
}

async fn open(kms: &Kms) -> Result<KmsSigner, BadKmsKey> {
    KmsSigner::open(&aws(kms).await, Kms::KEY_ID, Some(deployer().address())).await
}

#[tokio::test]
async fn signatures_are_the_pinned_keys_own_in_either_form() {
    let kms = Kms::start(ANVIL_KEYS[0]).await;
    let signer = open(&kms).await.unwrap();
    for number in 0..6_u8 {
        let hash = keccak256([number]);
        // Both sign deterministically (RFC 6979), so that even the bytes agree.
        assert_eq!(signer.sign_hash(&hash).await.unwrap(), deployer().sign_hash(&hash).await.unwrap());
    }
    assert_eq!(kms.given(), [3, 3], "low and high forms");
    kms.change_key(ANVIL_KEYS[1]);
    let error = signer.sign_hash(&B256::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("signed with another key"), "{error}");
    let shown = format!("{signer:?}");
    assert!(shown.contains(&deployer().address().to_string()) && !shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused_by_name() {
    let kms = Kms::start(ANVIL_KEYS[1]).await;
    let sdk = aws(&kms).await;
    assert!(matches!(open(&kms).await, Err(BadKmsKey::Other { pinned, .. }) if pinned == deployer().address()));
    let unpinned = KmsSigner::open(&sdk, Kms::KEY_ID, None).await.unwrap_err();
    assert!(matches!(unpinned, BadKmsKey::Unpinned { address, .. } if address == super::ground::owner()), "{unpinned}");
    let unknown = KmsSigner::open(&sdk, "alias/nothing", Some(deployer().address())).await.unwrap_err();
    assert!(unknown.to_string().contains("NotFoundException"), "{unknown}");
    kms.be(Mood::Disabled);
    let disabled = open(&kms).await.unwrap_err();
    assert!(disabled.to_string().contains("DisabledException"), "{disabled}");
}

/// What was sent before can be seen through while KMS is away: the pin is enough to begin.
#[tokio::test]
async fn throttling_is_waited_out_and_an_absent_kms_does_not_keep_a_sender_from_starting() {
    let kms = Kms::start(ANVIL_KEYS[0]).await;
    let signer = open(&kms).await.unwrap();
    kms.be(Mood::Throttling(2));
    signer.sign_hash(&B256::ZERO).await.unwrap();
    kms.be(Mood::Throttling(usize::MAX));
    let error = signer.sign_hash(&B256::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("ThrottlingException"), "{error}");
    assert_eq!(open(&kms).await.unwrap().address(), deployer().address());

    kms.be(Mood::Slow(Duration::from_secs(3600)));
    let started = std::time::Instant::now();
    let error = signer.sign_hash(&B256::ZERO).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}: {error}", started.elapsed());

    let sdk = aws(&kms).await;
    drop(kms);
    let absent = KmsSigner::open(&sdk, Kms::KEY_ID, Some(deployer().address())).await.unwrap();
    assert!(absent.sign_hash(&B256::ZERO).await.is_err());
    assert!(matches!(KmsSigner::open(&sdk, Kms::KEY_ID, None).await, Err(BadKmsKey::Unavailable { .. })));
}

#[tokio::test]
async fn a_kms_that_refuses_is_an_outage_and_burns_nothing() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let kms = Kms::start(ANVIL_KEYS[0]).await;
    let mut running = ground.start_as(Arc::new(open(&kms).await.unwrap()), &ledger, config());
    let first = ledger.plan(&[request("KMS", "1"), request("KMS", "2")]).await.unwrap();
    until_settled(&ledger, &first).await;

    kms.be(Mood::Disabled);
    let planned = ledger.plan(&[request("KMS", "3")]).await.unwrap();
    running.reports("the outage", is(Outage::KeyAway)).await;
    assert_eq!(ledger.get(&planned[0].id).await.unwrap().unwrap().state, DeploymentState::Planned);
    kms.be(Mood::Well);
    until_settled(&ledger, &planned).await;
    assert_eq!((ground.tokens().await, ground.versions().await, ground.attempts().await.len()), (1, 3, 2));
    ground.check_nonces().await;
    running.stop().await;
}
