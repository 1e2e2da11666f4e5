//! One contract, every backend: `conformance` is what a queue promises, `consuming` what a consumer and a reaper make of
//! it, and both run on Redis, Valkey, SQLite and PostgreSQL. `properties` holds every backend against a small model.
//! `redis_lists` is what only Redis has, foreign clients and its own refusals, and `connections` every way to reach it and
//! to lose it.

mod bench;
mod conformance;
mod connections;
mod consuming;
mod properties;
mod redis_lists;
mod upkeep;

/// Runs each case on each backend. PostgreSQL takes long to start, so its cases share one test; so do Valkey's, which have
/// passed on Redis.
macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(crate::bench::Bench::redis().await).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(crate::bench::Bench::sqlite().await).await;
            })*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn valkey() {
            $(println!("case {}", stringify!($case));
            $case(crate::bench::Bench::valkey().await).await;)*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            let db = crate::bench::postgres().await;
            $(println!("case {}", stringify!($case));
            $case(crate::bench::Bench::postgres(&db, stringify!($case))).await;)*
        }
    };
}
pub(crate) use on_every_backend;
