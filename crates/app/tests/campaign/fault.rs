//! What goes wrong in a round, and what it may cost.

use std::time::Duration;

use hokusai_testbed::{Proxy, Redis, eventually};

/// One fault for each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Nothing,
    OursKilled,
    ForeignKilled,
    RedisKilledAof,
    RedisKilledForgetful,
    FlushAll,
    ScriptFlush,
    ClientKill,
    ClientPause,
    ReplyCut,
    Silence,
    PromotionOrderly,
    PromotionAbrupt,
    Everything,
}

impl Fault {
    /// The order in which rounds go through them: five in a row are five kinds of trouble.
    pub(crate) const ALL: [Self; 14] = [
        Self::Nothing,
        Self::Everything,
        Self::RedisKilledForgetful,
        Self::ReplyCut,
        Self::PromotionOrderly,
        Self::OursKilled,
        Self::ForeignKilled,
        Self::RedisKilledAof,
        Self::FlushAll,
        Self::ClientKill,
        Self::ClientPause,
        Self::PromotionAbrupt,
        Self::Silence,
        Self::ScriptFlush,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::OursKilled => "ours-killed",
            Self::ForeignKilled => "foreign-killed",
            Self::RedisKilledAof => "redis-killed-aof",
            Self::RedisKilledForgetful => "redis-killed-forgetful",
            Self::FlushAll => "flushall",
            Self::ScriptFlush => "script-flush",
            Self::ClientKill => "client-kill",
            Self::ClientPause => "client-pause",
            Self::ReplyCut => "reply-cut",
            Self::Silence => "silence",
            Self::PromotionOrderly => "promotion-orderly",
            Self::PromotionAbrupt => "promotion-abrupt",
            Self::Everything => "everything",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Whether Redis itself loses what it has acknowledged.
    pub(crate) fn is_forgetful(self) -> bool {
        matches!(self, Self::RedisKilledForgetful | Self::FlushAll | Self::PromotionAbrupt)
    }

    /// Why a message may be finished more than once; `None` if it may not.
    pub(crate) fn repetitions(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::ScriptFlush => None,
            Self::OursKilled | Self::ForeignKilled => Some("finished, and killed before the acknowledgement"),
            Self::RedisKilledAof | Self::ClientKill | Self::ReplyCut => Some("acknowledgement or publish whose reply was lost"),
            Self::RedisKilledForgetful | Self::FlushAll | Self::PromotionAbrupt => Some("published again; its acknowledgement was lost"),
            Self::ClientPause => Some("acknowledged after its lease had run out"),
            Self::Silence => Some("acknowledgement that never arrived, lease run out"),
            Self::PromotionOrderly => Some("acknowledgement refused by the demoted server"),
            Self::Everything => Some("all of these, but no loss by Redis"),
        }
    }

    pub(crate) fn redis_args(self) -> &'static [&'static str] {
        match self {
            Self::RedisKilledAof | Self::Everything => &["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            _ => &["--save", "", "--appendonly", "no"],
        }
    }

    pub(crate) fn kills_ours(self) -> bool {
        matches!(self, Self::OursKilled | Self::Everything)
    }

    pub(crate) fn kills_foreign(self) -> bool {
        matches!(self, Self::ForeignKilled | Self::Everything)
    }

    /// How long messages may be held; long where nothing is abandoned, so that a slow machine explains no repetition.
    pub(crate) fn processing_timeout(self) -> &'static str {
        if self.repetitions().is_none() { "30" } else { "2" }
    }
}

/// Redis, where everybody reaches it.
pub(crate) struct Servers {
    pub(crate) primary: Redis,
    replica: Option<Redis>,
    pub(crate) address: Proxy,
}

impl Servers {
    pub(crate) fn has_replica(&self) -> bool {
        self.replica.is_some()
    }

    pub(crate) async fn start(fault: Fault) -> Self {
        let primary = Redis::start_with(fault.redis_args()).await;
        let promotes = matches!(fault, Fault::PromotionOrderly | Fault::PromotionAbrupt);
        let replica = if promotes { Some(primary.replica().await) } else { None };
        let address = Proxy::to(primary.port()).await;
        Self { primary, replica, address }
    }

    /// Does to Redis what the fault is; again and again for a round of everything.
    pub(crate) async fn suffer(&mut self, fault: Fault, random: &mut fastrand::Rng) {
        match fault {
            Fault::Nothing | Fault::OursKilled | Fault::ForeignKilled => {}
            Fault::RedisKilledAof | Fault::RedisKilledForgetful => {
                self.primary.kill().await;
                tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
                self.primary.restart().await;
            }
            Fault::FlushAll => drop(self.primary.tell("FLUSHALL").await),
            Fault::ScriptFlush => drop(self.primary.tell("SCRIPT FLUSH").await),
            Fault::ClientKill => drop(self.primary.tell("CLIENT KILL TYPE normal SKIPME yes").await),
            Fault::ClientPause => {
                let kind = if random.bool() { "ALL" } else { "WRITE" };
                drop(self.primary.tell(&format!("CLIENT PAUSE {} {kind}", random.u64(50..1200))).await);
            }
            Fault::ReplyCut => self.address.cut_next_reply(),
            Fault::Silence => self.address.strand(),
            Fault::PromotionOrderly => self.promote_orderly().await,
            Fault::PromotionAbrupt => self.promote_abruptly().await,
            Fault::Everything => {
                let one = [Fault::RedisKilledAof, Fault::ClientKill, Fault::ClientPause, Fault::ReplyCut, Fault::ScriptFlush];
                Box::pin(self.suffer(one[random.usize(0..one.len())], random)).await;
            }
        }
    }

    /// The replica has everything before it is promoted, and the primary becomes a replica.
    async fn promote_orderly(&mut self) {
        let Some(replica) = self.replica.take() else { return };
        self.primary.tell("CLIENT PAUSE 5000 WRITE").await;
        let even = async || (self.primary.offset().await == replica.offset().await).then_some(());
        eventually("the replica has everything", Duration::from_secs(4), even).await;
        replica.promote().await;
        self.address.point_at(replica.port());
        self.primary.follow(&replica).await;
        self.primary.tell("CLIENT UNPAUSE").await;
        self.replica = Some(std::mem::replace(&mut self.primary, replica));
    }

    /// The primary dies, and the replica has what it has.
    async fn promote_abruptly(&mut self) {
        let Some(replica) = self.replica.take() else { return };
        self.primary.kill().await;
        replica.promote().await;
        self.address.point_at(replica.port());
        self.primary = replica;
    }
}
