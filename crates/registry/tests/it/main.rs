//! The registry on real databases and queues.

mod home;
mod mlflow;
mod outages;
mod progress;
mod register;
mod relay;
mod subscriptions;
mod sweep;
mod upgrade;

/// Runs the scenarios on SQLite, one test each, and all of them on PostgreSQL as one test, which starts one server.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::home::Home::sqlite().await).await;
            })*
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            let server = hokusai_testbed::Postgres::start().await;
            $(println!("{}", stringify!($name));
            $name(crate::home::Home::postgres(&server).await).await;)*
        }
    };
}
pub(crate) use scenarios;
