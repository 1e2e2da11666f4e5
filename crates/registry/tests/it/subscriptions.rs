//! Who is subscribed to what, from where on.

use std::collections::BTreeSet;

use hokusai_event::MessageType;
use hokusai_registry::{Start, SubscribeError, Wanted, subscriptions::parse};
use hokusai_testbed::Redis;
use serde_json::json;

use crate::home::{Home, OnRedis, QUEUE, request, waiting};

crate::scenarios!(
    subscriptions_are_listed_and_removed,
    the_default_queue_receives_one_type,
    a_subscription_starts_where_it_is_told,
    another_default_queue_receives_what_is_unfinished,
    backlogs_count_what_waits,
);

async fn subscriptions_are_listed_and_removed(home: Home) {
    let subscriptions = home.subscriptions();
    subscriptions.ensure_default(QUEUE).await.unwrap();
    subscriptions.ensure_default(QUEUE).await.unwrap();
    let wanted = &parse("site=model_registered+model_deployed").unwrap()[0];
    subscriptions.add(wanted).await.unwrap();
    subscriptions.add(wanted).await.unwrap();
    let list = subscriptions.list().await.unwrap();
    let queues: Vec<(&str, bool)> = list.iter().map(|subscription| (subscription.queue.as_str(), subscription.is_default)).collect();
    assert_eq!(queues, [(QUEUE, true), ("site", false)]);
    assert_eq!(list[1].types, BTreeSet::from(["model_deployed".to_owned(), "model_registered".to_owned()]));
    assert!(subscriptions.remove("site", &[MessageType::ModelDeployed]).await.unwrap());
    assert_eq!(subscriptions.list().await.unwrap()[1].types.len(), 1);
    assert!(subscriptions.remove("site", &[]).await.unwrap());
    assert!(!subscriptions.remove("site", &[]).await.unwrap());
    assert_eq!(subscriptions.list().await.unwrap().len(), 1);
}

async fn the_default_queue_receives_one_type(home: Home) {
    let subscriptions = home.subscriptions();
    subscriptions.ensure_default(QUEUE).await.unwrap();
    let wanted = Wanted { queue: QUEUE.into(), types: vec![MessageType::ModelDeployed], start: Start::Now };
    assert!(matches!(subscriptions.add(&wanted).await, Err(SubscribeError::DefaultQueue { .. })));
    subscriptions.add(&parse("site=*").unwrap()[0]).await.unwrap();
    assert!(matches!(subscriptions.ensure_default("site").await, Err(SubscribeError::DefaultQueue { .. })));
}

async fn a_subscription_starts_where_it_is_told(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.accept("before").await;
    let middle = jiff::Timestamp::now();
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    home.accept("after").await;
    let relay = home.relay(opener.clone());
    let types = vec![MessageType::ModelReadyToDeploy];
    let at = |millis: i64| Start::At(jiff::Timestamp::from_millisecond(millis).unwrap());
    for (queue, start) in [
        ("now", Start::Now),
        ("beginning", Start::Beginning),
        ("middle", at(middle.as_millisecond() + 1)),
        ("later", at(i64::from(u32::MAX) * 2_000)),
    ] {
        home.subscriptions().add(&Wanted { queue: queue.into(), types: types.clone(), start }).await.unwrap();
    }
    home.accept("last").await;
    relay.pass().await.unwrap();
    for (queue, expected) in [("now", 1), ("beginning", 3), ("middle", 2), ("later", 1)] {
        assert_eq!(waiting(&opener.queue(queue).await).await.len(), expected, "{queue}");
    }
    // A queue that has gone on cannot start another type before where it is.
    let more = |start| Wanted { queue: "now".into(), types: vec![MessageType::ModelRegistered], start };
    assert!(matches!(home.subscriptions().add(&more(Start::Beginning)).await, Err(SubscribeError::Behind { position: 6, .. })));
    home.subscriptions().add(&more(Start::Now)).await.unwrap();
    home.accept("one-more").await;
    relay.pass().await.unwrap();
    assert_eq!(waiting(&opener.queue("now").await).await.len(), 3);
}

async fn another_default_queue_receives_what_is_unfinished(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default("old").await.unwrap();
    let first = home.accept("a").await;
    home.accept("b").await;
    let relay = home.relay(opener.clone());
    relay.pass().await.unwrap();
    home.finish("old", first.message_id.as_deref().unwrap()).await;
    home.subscriptions().ensure_default("new").await.unwrap();
    home.register(request(json!({ "model_name": "c" }))).await.unwrap();
    relay.pass().await.unwrap();
    let all = home.outbox(&["model_ready_to_deploy"]).await;
    assert_eq!(waiting(&opener.queue("new").await).await, all[1..]);
    assert_eq!(waiting(&opener.queue("old").await).await, all[..2]);
    // Back again: the old queue goes on where it was.
    home.subscriptions().ensure_default("old").await.unwrap();
    relay.pass().await.unwrap();
    assert_eq!(waiting(&opener.queue("old").await).await, all);
}

async fn backlogs_count_what_waits(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let backlogs = async || -> Vec<(String, i64)> {
        home.subscriptions().backlogs().await.unwrap().into_iter().map(|backlog| (backlog.queue, backlog.events)).collect()
    };
    assert_eq!(backlogs().await, []);
    home.accept("a").await;
    home.subscriptions().add(&parse("site=*").unwrap()[0]).await.unwrap();
    home.accept("b").await;
    assert_eq!(backlogs().await, [(QUEUE.to_owned(), 2), ("site".to_owned(), 2)]);
    home.relay(opener).pass().await.unwrap();
    assert_eq!(backlogs().await, []);
}
