//! Proofs of possession that nodes have seen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kasbah_auth::{
    ReplayError::{Full, Quota, Unreachable},
    ReplayStore,
    Seen::{Again, First},
};
use kasbah_registry::{Database, DatabaseReplay};
use sqlx::{AnyConnection, Connection, Row};
use tokio::task::JoinSet;

use crate::harness::{Store, on_both, registry};

/// Longer than any machine takes, so that an answer is about what the test is about.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is remembered beyond what was asked for.
const MARGIN: u64 = 60;

struct Nodes {
    store: Store,
    time: Arc<AtomicU64>,
    database: Database,
}

impl Nodes {
    async fn over(store: Store) -> Self {
        let database = registry(&store).await.database().clone();
        Self { store, time: Arc::new(AtomicU64::new(1000)), database }
    }

    /// One more node, with connections of its own.
    async fn node(&self, capacity: u64, per_key: u64) -> DatabaseReplay {
        let time = Arc::clone(&self.time);
        DatabaseReplay::new(self.store.open().await)
            .with_limits(capacity, per_key)
            .with_clock(Arc::new(move || time.load(Ordering::Relaxed)))
            .with_timeout(PATIENCE)
    }

    fn at(&self, time: u64) {
        self.time.store(time, Ordering::Relaxed);
    }

    async fn connect(&self) -> AnyConnection {
        AnyConnection::connect(&self.store.url()).await.unwrap()
    }

    async fn rows(&self) -> i64 {
        let row = sqlx::query("SELECT COUNT(*) AS n FROM seen_proof");
        row.fetch_one(&mut self.connect().await).await.unwrap().get("n")
    }
}

async fn of_many_at_once_on_two_nodes_one_is_the_first(store: Store) {
    let nodes = Nodes::over(store).await;
    let both = [Arc::new(nodes.node(1000, 1000).await), Arc::new(nodes.node(1000, 1000).await)];
    for round in 0..5 {
        let mut calls = JoinSet::new();
        for number in 0..12 {
            let node = Arc::clone(&both[number % 2]);
            calls.spawn(async move { node.remember("key", &format!("j{round}"), 2000).await });
        }
        let seen = calls.join_all().await;
        assert_eq!(seen.iter().filter(|seen| **seen == Ok(First)).count(), 1, "{seen:?}");
        assert_eq!(seen.iter().filter(|seen| **seen == Ok(Again)).count(), 11, "{seen:?}");
    }
}

async fn a_proof_is_one_of_a_key(store: Store) {
    let nodes = Nodes::over(store).await;
    let node = nodes.node(100, 100).await;
    for (jkt, jti) in [("a", "1"), ("b", "1"), ("a", "2"), ("", "a1"), ("a1", "")] {
        assert_eq!(node.remember(jkt, jti, 2000).await, Ok(First), "{jkt} {jti}");
        assert_eq!(node.remember(jkt, jti, 2000).await, Ok(Again), "{jkt} {jti}");
    }
    assert_eq!(nodes.node(100, 100).await.remember("b", "1", 2000).await, Ok(Again));
    let row = sqlx::query("SELECT proof, signer FROM seen_proof LIMIT 1");
    let row = row.fetch_one(&mut nodes.connect().await).await.unwrap();
    let hashes: [Vec<u8>; 2] = [row.get("proof"), row.get("signer")];
    assert!(hashes.iter().all(|hash| hash.len() == 32), "neither key nor `jti` is kept");
}

async fn nothing_is_forgotten_before_its_time(store: Store) {
    let nodes = Nodes::over(store).await;
    let node = nodes.node(100, 100).await;
    assert_eq!(node.remember("a", "1", 1100).await, Ok(First));
    for time in [1100, 1101, 1100 + MARGIN] {
        nodes.at(time);
        assert_eq!(node.remember("a", "1", 2000).await, Ok(Again), "{time}");
    }
    nodes.at(1101 + MARGIN + 10);
    assert_eq!(node.remember("a", "1", 2000).await, Ok(First));
    assert_eq!(nodes.rows().await, 1);
}

async fn one_key_has_a_quota(store: Store) {
    let nodes = Nodes::over(store).await;
    let node = nodes.node(100, 2).await;
    for jti in ["1", "2"] {
        assert_eq!(node.remember("a", jti, 1100).await, Ok(First));
    }
    assert_eq!(node.remember("a", "3", 1100).await, Err(Quota));
    assert_eq!(node.remember("a", "1", 1100).await, Ok(Again));
    assert_eq!(node.remember("b", "3", 1100).await, Ok(First));
    let other = nodes.node(100, 2).await;
    assert_eq!(other.remember("a", "3", 1100).await, Err(Quota), "on every node");
    nodes.at(1100);
    assert_eq!(node.remember("a", "3", 1200).await, Err(Quota));
    nodes.at(1101);
    assert_eq!(node.remember("a", "3", 1200).await, Ok(First));
}

async fn there_is_room_for_so_many(store: Store) {
    let nodes = Nodes::over(store).await;
    let node = nodes.node(3, 10).await;
    for jti in ["1", "2", "3"] {
        assert_eq!(node.remember("a", jti, 1100).await, Ok(First));
    }
    assert_eq!(node.remember("b", "4", 1100).await, Err(Full));
    assert_eq!(node.remember("a", "2", 1100).await, Ok(Again));
    let other = nodes.node(3, 10).await;
    assert_eq!(other.remember("b", "4", 1100).await, Err(Full), "on every node");
    assert_eq!(nodes.rows().await, 3);
    nodes.at(1100 + MARGIN);
    assert_eq!(node.remember("b", "4", 1300).await, Err(Full));
    nodes.at(1101 + MARGIN + 10);
    assert_eq!(node.remember("b", "4", 1300).await, Ok(First));
    assert_eq!(other.remember("a", "3", 1300).await, Ok(First), "a new one by now");
}

async fn what_has_expired_goes_in_small_batches(store: Store) {
    let nodes = Nodes::over(store).await;
    let mut connection = nodes.connect().await;
    let mut tx = connection.begin().await.unwrap();
    for number in 0..1200_u64 {
        let hash = [number.to_be_bytes(); 4].concat();
        sqlx::query("INSERT INTO seen_proof (proof, signer, expires) VALUES ($1, $1, $2)")
            .bind(hash)
            .bind(i64::try_from(number % 7).unwrap())
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let node = nodes.node(10_000, 100).await;
    for (jti, left) in [("1", 701), ("2", 202), ("3", 3), ("4", 4)] {
        assert_eq!(node.remember("a", jti, 1100).await, Ok(First));
        assert_eq!(nodes.rows().await, left, "{jti}");
    }
    // Once in a while, not for every proof.
    let expired = "INSERT INTO seen_proof (proof, signer, expires) SELECT signer, signer, 0 \
                   FROM seen_proof LIMIT 1";
    sqlx::query(expired).execute(&mut nodes.connect().await).await.unwrap();
    assert_eq!(node.remember("a", "5", 1100).await, Ok(First));
    assert_eq!(nodes.rows().await, 6);
    nodes.at(1010);
    assert_eq!(node.remember("a", "6", 1100).await, Ok(First));
    assert_eq!(nodes.rows().await, 6);
}

async fn it_is_no_change_of_the_registry(store: Store) {
    let nodes = Nodes::over(store).await;
    let before = nodes.database.revision().await.unwrap();
    let node = nodes.node(100, 100).await;
    assert_eq!(node.remember("a", "1", 1100).await, Ok(First));
    assert_eq!(nodes.database.revision().await.unwrap(), before);
    // A file has one writer at a time, whatever it writes.
    if matches!(nodes.store, Store::Postgres(_)) {
        let mut writer = nodes.connect().await;
        let mut write = writer.begin().await.unwrap();
        let take = sqlx::query("UPDATE registry_state SET revision = revision + 1");
        take.execute(&mut *write).await.unwrap();
        assert_eq!(node.remember("a", "2", 1100).await, Ok(First));
        write.rollback().await.unwrap();
    }
}

async fn a_database_that_is_slow_is_not_waited_for(store: Store) {
    let nodes = Nodes::over(store).await;
    let node = nodes.node(100, 100).await;
    assert_eq!(node.remember("a", "1", 1100).await, Ok(First));
    let node = node.with_timeout(Duration::from_secs(1));
    let mut holder = nodes.connect().await;
    let lock = match nodes.store {
        Store::Sqlite(_) => "BEGIN IMMEDIATE",
        Store::Postgres(_) => "BEGIN; LOCK TABLE seen_proof IN ACCESS EXCLUSIVE MODE",
    };
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, node.remember("a", "2", 1100)).await;
    assert_eq!(answer, Ok(Err(Unreachable)));
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let node = node.with_timeout(PATIENCE);
    assert_eq!(node.remember("a", "3", 1100).await, Ok(First));
}

on_both!(
    of_many_at_once_on_two_nodes_one_is_the_first,
    a_proof_is_one_of_a_key,
    nothing_is_forgotten_before_its_time,
    one_key_has_a_quota,
    there_is_room_for_so_many,
    what_has_expired_goes_in_small_batches,
    it_is_no_change_of_the_registry,
    a_database_that_is_slow_is_not_waited_for,
);

#[tokio::test]
async fn a_database_that_is_down_is_unreachable_until_it_is_back() {
    let mut nodes = Nodes::over(Store::postgres()).await;
    let node = nodes.node(100, 100).await;
    assert_eq!(node.remember("a", "1", 1100).await, Ok(First));
    let Store::Postgres(postgres) = &mut nodes.store else { unreachable!() };
    postgres.stop();
    assert_eq!(node.remember("a", "2", 1100).await, Err(Unreachable));
    postgres.start_again();
    assert_eq!(node.remember("a", "1", 1100).await, Ok(Again), "what was seen stays seen");
    assert_eq!(node.remember("a", "2", 1100).await, Ok(First));
}
