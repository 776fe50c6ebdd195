//! The cache over a scripted source: a double, because only that fails, hangs and goes back in
//! time on demand.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use kasbah_crypto::PrivateKey;
use kasbah_index::{CacheRules, CachedIndex, KeySource};
use kasbah_trust::{
    Algorithm, Curve, Deadline, Error, KeyDetails, KeyFilter, KeyId, KeyIndex, KeyMode, KeyStatus,
    PrivateKeyRef, PublicKey, Result,
};
use tokio::{sync::Semaphore, time};

/// What the double answers.
#[derive(Debug, Default)]
struct Script {
    keys: BTreeMap<String, KeyDetails>,
    revision: Option<u64>,
    down: bool,
    hung: bool,
    broken: Option<String>,
    panics: bool,
}

#[derive(Debug, Default)]
struct Scripted {
    script: Mutex<Script>,
    /// Every answer waits for a permit when there is one of these.
    gate: Option<Semaphore>,
    /// A list that was read is under way until there is a permit.
    slow_lists: Option<Semaphore>,
    finds: AtomicUsize,
    lists: AtomicUsize,
    revisions: AtomicUsize,
}

impl Scripted {
    fn with(revision: Option<u64>, kids: &[&str]) -> Arc<Self> {
        Arc::new(Self::script(revision, kids))
    }

    fn script(revision: Option<u64>, kids: &[&str]) -> Self {
        let keys =
            kids.iter().map(|kid| ((*kid).to_owned(), key(kid, KeyStatus::Active))).collect();
        Self {
            script: Mutex::new(Script { keys, revision, ..Script::default() }),
            ..Self::default()
        }
    }

    fn gated(revision: Option<u64>, kids: &[&str]) -> Arc<Self> {
        Arc::new(Self { gate: Some(Semaphore::new(0)), ..Self::script(revision, kids) })
    }

    fn edit(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn set(&self, kid: &str, status: KeyStatus, revision: Option<u64>) {
        let mut script = self.edit();
        script.keys.insert(kid.to_owned(), key(kid, status));
        script.revision = revision;
    }

    fn open(&self) {
        self.gate.as_ref().unwrap().add_permits(1_000);
    }

    fn finds(&self) -> usize {
        self.finds.load(SeqCst)
    }

    fn lists(&self) -> usize {
        self.lists.load(SeqCst)
    }

    async fn answer(&self) -> Result<MutexGuard<'_, Script>> {
        if self.edit().hung {
            std::future::pending::<()>().await;
        }
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let script = self.edit();
        if script.down {
            return Err(Error::unavailable("the script says it is down"));
        }
        Ok(script)
    }
}

#[async_trait]
impl KeySource for Scripted {
    async fn find(&self, kid: &KeyId) -> Result<Option<KeyDetails>> {
        self.finds.fetch_add(1, SeqCst);
        assert!(!std::mem::take(&mut self.edit().panics), "the script says so");
        let script = self.answer().await?;
        if script.broken.as_deref() == Some(kid.as_str()) {
            return Err(Error::internal("the script says its public key is malformed"));
        }
        Ok(script.keys.get(kid.as_str()).cloned())
    }

    async fn list(&self) -> Result<Vec<KeyDetails>> {
        self.lists.fetch_add(1, SeqCst);
        let keys = self.answer().await?.keys.values().cloned().collect();
        if let Some(gate) = &self.slow_lists {
            gate.acquire().await.unwrap().forget();
        }
        Ok(keys)
    }

    async fn revision(&self) -> Result<Option<u64>> {
        self.revisions.fetch_add(1, SeqCst);
        let known = self.edit().revision;
        if known.is_none() { Ok(None) } else { Ok(self.answer().await?.revision) }
    }
}

fn key(kid: &str, status: KeyStatus) -> KeyDetails {
    static PUBLIC: OnceLock<PublicKey> = OnceLock::new();
    let algorithm = Algorithm::Ec(Curve::P256);
    let public = PUBLIC.get_or_init(|| PrivateKey::generate(algorithm).unwrap().public_key());
    KeyDetails {
        kas_uri: "https://kas.example".into(),
        kid: kid.into(),
        algorithm,
        mode: KeyMode::Remote,
        status,
        legacy: kid.starts_with("old"),
        public_key: public.clone(),
        private_key: PrivateKeyRef::default(),
        provider: None,
    }
}

fn rules() -> CacheRules {
    CacheRules::default()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

async fn find(index: &CachedIndex, kid: &str) -> Result<Arc<KeyDetails>> {
    index.find_by_id(&kid.into(), soon()).await
}

async fn status(index: &CachedIndex, kid: &str) -> KeyStatus {
    find(index, kid).await.unwrap().status
}

async fn list(index: &CachedIndex) -> Result<Vec<Arc<KeyDetails>>> {
    index.list(KeyFilter::default(), soon()).await
}

async fn pass(millis: u64) {
    time::sleep(Duration::from_millis(millis)).await;
}

/// Runs the poll beside the test.
fn watched(source: &Arc<Scripted>, rules: CacheRules) -> Arc<CachedIndex> {
    let index = CachedIndex::new(Arc::clone(source) as _, rules);
    let watching = Arc::clone(&index);
    tokio::spawn(async move { watching.watch().await });
    index
}

fn unwatched(source: &Arc<Scripted>, rules: CacheRules) -> Arc<CachedIndex> {
    CachedIndex::new(Arc::clone(source) as _, rules)
}

fn assert_unavailable<T: std::fmt::Debug>(answer: &Result<T>) {
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
}

fn assert_not_found<T: std::fmt::Debug>(answer: &Result<T>) {
    assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_read_once_while_the_revision_stays() {
    let source = Scripted::with(Some(1), &["r1"]);
    let index = watched(&source, rules());
    let first = find(&index, "r1").await.unwrap();
    for _ in 0..100 {
        pass(1_000).await;
        assert!(Arc::ptr_eq(&first, &find(&index, "r1").await.unwrap()));
    }
    assert_eq!(source.finds(), 1);
    let stats = index.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (100, 1, 1));
    assert!(stats.last_contact.unwrap() <= rules().poll);
}

#[tokio::test(start_paused = true)]
async fn without_a_revision_a_key_is_read_again_after_the_ttl() {
    let source = Scripted::with(None, &["r1"]);
    let index = watched(&source, rules());
    assert_eq!(status(&index, "r1").await, KeyStatus::Active);
    source.set("r1", KeyStatus::Rotated, None);
    pass(4_900).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Active);
    pass(200).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Rotated);
    assert_eq!(source.finds(), 2);
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_read_once() {
    let source = Scripted::gated(Some(1), &["r1"]);
    let index = unwatched(&source, rules());
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let index = Arc::clone(&index);
            tokio::spawn(async move { find(&index, "r1").await })
        })
        .collect();
    pass(50).await;
    source.open();
    for answer in join_all(asking).await {
        assert_eq!(answer.unwrap().unwrap().kid, "r1".into());
    }
    assert_eq!(source.finds(), 1);
    assert_eq!(source.revisions.load(SeqCst), 1);
}

#[tokio::test]
async fn who_began_to_read_can_leave() {
    let source = Scripted::gated(None, &["r1"]);
    let index = unwatched(&source, rules());
    let [leader, follower] = [0, 1].map(|_| {
        let index = Arc::clone(&index);
        tokio::spawn(async move { find(&index, "r1").await })
    });
    pass(50).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    source.open();
    assert_eq!(follower.await.unwrap().unwrap().kid, "r1".into());
    assert_eq!(source.finds(), 1);
}

#[tokio::test]
async fn a_read_that_all_have_left_still_counts() {
    let source = Scripted::gated(None, &["r1"]);
    let index = unwatched(&source, rules());
    let alone = tokio::spawn({
        let index = Arc::clone(&index);
        async move { find(&index, "r1").await }
    });
    pass(50).await;
    alone.abort();
    source.open();
    pass(50).await;
    find(&index, "r1").await.unwrap();
    assert_eq!((source.finds(), index.stats().hits), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_harms_one_answer_only() {
    let source = Scripted::with(Some(1), &["r1"]);
    let index = watched(&source, rules());
    source.edit().panics = true;
    assert!(matches!(find(&index, "r1").await, Err(Error::Internal(_))));
    find(&index, "r1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_kid_is_asked_for_once_in_a_while() {
    for revision in [None, Some(1)] {
        let source = Scripted::with(revision, &[]);
        let index = watched(&source, rules());
        for _ in 0..10 {
            assert_not_found(&find(&index, "nobody").await);
        }
        assert_eq!(source.finds(), 1);
        pass(2_100).await;
        assert_not_found(&find(&index, "nobody").await);
        assert_eq!(source.finds(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_kid_is_forgotten_when_the_revision_changes() {
    let source = Scripted::with(Some(1), &[]);
    let index = watched(&source, rules());
    assert_not_found(&find(&index, "r1").await);
    source.set("r1", KeyStatus::Active, Some(2));
    pass(300).await;
    find(&index, "r1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn impossible_kids_are_not_asked_for() {
    let source = Scripted::with(Some(1), &[]);
    let index = watched(&source, rules());
    assert_not_found(&find(&index, "").await);
    assert_not_found(&find(&index, &"k".repeat(37)).await);
    assert_eq!(source.finds(), 0);
    assert_not_found(&find(&index, &"ü".repeat(36)).await);
    assert_eq!(source.finds(), 1);
}

#[tokio::test(start_paused = true)]
async fn invented_kids_do_not_push_out_real_ones() {
    let source = Scripted::with(Some(1), &["r1", "r2"]);
    let index = watched(&source, CacheRules { capacity: 8, ..rules() });
    find(&index, "r1").await.unwrap();
    find(&index, "r2").await.unwrap();
    for n in 0..1_000 {
        assert_not_found(&find(&index, &format!("invented-{n}")).await);
    }
    let before = source.finds();
    find(&index, "r1").await.unwrap();
    find(&index, "r2").await.unwrap();
    assert_eq!(source.finds(), before);
    assert_eq!(index.stats().entries, 2);
}

#[tokio::test]
async fn a_flood_of_reads_is_refused_and_spares_what_is_known() {
    let source = Scripted::gated(None, &["r1"]);
    let index = unwatched(&source, rules());
    source.gate.as_ref().unwrap().add_permits(1);
    find(&index, "r1").await.unwrap();
    let flood: Vec<_> = (0..300)
        .map(|n| {
            let index = Arc::clone(&index);
            tokio::spawn(async move { find(&index, &format!("invented-{n}")).await })
        })
        .collect();
    pass(100).await;
    assert!(matches!(find(&index, "one-more").await, Err(Error::Busy)));
    find(&index, "r1").await.unwrap();
    source.open();
    let answers = join_all(flood).await;
    let busy = answers.iter().filter(|answer| matches!(answer, Ok(Err(Error::Busy)))).count();
    assert_eq!(busy, 300 - 256);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_within_a_poll() {
    let source = Scripted::with(Some(1), &["r1"]);
    let index = watched(&source, rules());
    assert_eq!(status(&index, "r1").await, KeyStatus::Active);
    assert_eq!(list(&index).await.unwrap()[0].status, KeyStatus::Active);
    source.set("r1", KeyStatus::Disabled, Some(2));
    pass(260).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Disabled);
    assert_eq!(list(&index).await.unwrap()[0].status, KeyStatus::Disabled);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_goes_back_is_a_change() {
    let source = Scripted::with(Some(9), &["r1"]);
    let index = watched(&source, rules());
    assert_eq!(status(&index, "r1").await, KeyStatus::Active);
    source.set("r1", KeyStatus::Rotated, Some(3));
    pass(260).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Rotated);
    // The number that the first read had, in another history.
    source.set("r1", KeyStatus::Compromised, Some(9));
    pass(260).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Compromised);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_a_change_does_not_wait_for_the_poll() {
    for revision in [None, Some(1)] {
        let source = Scripted::with(revision, &["r1"]);
        let index = unwatched(&source, rules());
        assert_eq!(status(&index, "r1").await, KeyStatus::Active);
        list(&index).await.unwrap();
        source.set("r1", KeyStatus::Disabled, revision.map(|_| 2));
        index.changed(2);
        assert_eq!(status(&index, "r1").await, KeyStatus::Disabled);
        assert_eq!(list(&index).await.unwrap()[0].status, KeyStatus::Disabled);
        find(&index, "r1").await.unwrap();
        assert_eq!((source.finds(), source.lists()), (2, 2));
    }
}

#[tokio::test]
async fn what_was_being_read_when_it_changed_is_read_again() {
    let source = Scripted::gated(Some(1), &["r1"]);
    let index = unwatched(&source, rules());
    source.gate.as_ref().unwrap().add_permits(1); // for the revision
    let early = tokio::spawn({
        let index = Arc::clone(&index);
        async move { find(&index, "r1").await }
    });
    pass(50).await;
    index.changed(2);
    source.open();
    early.await.unwrap().unwrap();
    source.set("r1", KeyStatus::Disabled, Some(2));
    assert_eq!(status(&index, "r1").await, KeyStatus::Disabled);
    assert_eq!(source.finds(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_watch_requests_look_at_the_revision() {
    let source = Scripted::with(Some(1), &["r1"]);
    let index = unwatched(&source, rules());
    assert_eq!(status(&index, "r1").await, KeyStatus::Active);
    pass(1_100).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Active);
    assert_eq!(source.finds(), 1, "the revision was still the same");
    source.set("r1", KeyStatus::Disabled, Some(2));
    pass(1_100).await;
    assert_eq!(status(&index, "r1").await, KeyStatus::Disabled);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_bridged_up_to_the_limit() {
    for revision in [None, Some(1)] {
        let source = Scripted::with(revision, &["r1"]);
        let index = watched(&source, rules());
        find(&index, "r1").await.unwrap();
        list(&index).await.unwrap();
        source.edit().down = true;
        for _ in 0..9 {
            pass(60_000).await;
            find(&index, "r1").await.unwrap();
            assert_eq!(list(&index).await.unwrap().len(), 1);
        }
        let stats = index.stats();
        assert_eq!(stats.stale_served, 18);
        assert!(stats.source_errors > 0);
        assert!(stats.last_contact.unwrap() >= Duration::from_mins(9));
        pass(61_000).await;
        assert_unavailable(&find(&index, "r1").await);
        assert_unavailable(&list(&index).await);
    }
}

#[tokio::test(start_paused = true)]
async fn age_counts_from_when_a_key_was_last_known_to_be_current() {
    let source = Scripted::with(Some(1), &["r1"]);
    let index = watched(&source, rules());
    find(&index, "r1").await.unwrap();
    pass(3_600_000).await;
    source.edit().down = true;
    pass(9 * 60_000).await;
    find(&index, "r1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_read_grows_old_though_others_can() {
    let source = Scripted::with(None, &["r1", "r2"]);
    let index = watched(&source, rules());
    find(&index, "r1").await.unwrap();
    for _ in 0..11 {
        pass(60_000).await;
        find(&index, "r2").await.unwrap();
    }
    source.edit().down = true;
    find(&index, "r2").await.unwrap();
    assert_unavailable(&find(&index, "r1").await);
}

#[tokio::test(start_paused = true)]
async fn a_key_never_seen_is_unavailable_in_an_outage() {
    for revision in [None, Some(1)] {
        let source = Scripted::with(revision, &["r1"]);
        let index = watched(&source, rules());
        source.edit().down = true;
        for _ in 0..3 {
            assert_unavailable(&find(&index, "r1").await);
            assert_unavailable(&find(&index, "nobody").await);
            assert_unavailable(&list(&index).await);
        }
        source.edit().down = false;
        pass(260).await;
        find(&index, "r1").await.unwrap();
        assert_not_found(&find(&index, "nobody").await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_kid_is_not_vouched_for_in_an_outage() {
    let source = Scripted::with(Some(1), &[]);
    let index = watched(&source, rules());
    assert_not_found(&find(&index, "nobody").await);
    source.edit().down = true;
    pass(2_100).await;
    assert_unavailable(&find(&index, "nobody").await);
}

#[tokio::test(start_paused = true)]
async fn the_source_comes_back_without_a_restart() {
    for revision in [None, Some(1)] {
        let source = Scripted::with(revision, &["r1"]);
        let index = watched(&source, rules());
        find(&index, "r1").await.unwrap();
        source.edit().down = true;
        pass(700_000).await;
        assert_unavailable(&find(&index, "r1").await);
        source.edit().down = false;
        source.set("r1", KeyStatus::Rotated, revision.map(|_| 2));
        pass(260).await;
        assert_eq!(status(&index, "r1").await, KeyStatus::Rotated);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_source_is_not_asked_for_every_request() {
    let source = Scripted::with(None, &["r1"]);
    let index = watched(&source, rules());
    find(&index, "r1").await.unwrap();
    source.edit().down = true;
    pass(5_100).await;
    for _ in 0..100 {
        find(&index, "r1").await.unwrap();
    }
    assert_eq!(source.finds(), 2);
    assert_eq!(index.stats().stale_served, 100);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_holds_up_the_first_request_only() {
    let source = Scripted::with(None, &["r1"]);
    let index = watched(&source, rules());
    find(&index, "r1").await.unwrap();
    source.edit().hung = true;
    pass(5_100).await;
    let start = time::Instant::now();
    for _ in 0..100 {
        find(&index, "r1").await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn nobody_waits_beyond_the_deadline() {
    let source = Scripted::gated(Some(1), &["r1"]);
    let index = unwatched(&source, rules());
    let kid = KeyId::from("r1");
    for millis in [0, 20] {
        let deadline = Deadline::after(Duration::from_millis(millis));
        let answer = time::timeout(Duration::from_secs(5), index.find_by_id(&kid, deadline));
        assert_unavailable(&answer.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_a_key_is_no_outage() {
    let source = Scripted::with(Some(1), &["r1"]);
    let index = watched(&source, rules());
    find(&index, "r1").await.unwrap();
    {
        let mut script = source.edit();
        (script.broken, script.revision) = (Some("r1".to_owned()), Some(2));
    }
    pass(260).await;
    let error = find(&index, "r1").await.unwrap_err();
    let Error::Internal(source) = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("malformed"), "{source}");
}

#[tokio::test(start_paused = true)]
async fn the_list_is_read_once_and_filtered_here() {
    let source = Scripted::with(Some(1), &["old1", "r1", "r2"]);
    let index = watched(&source, rules());
    assert_eq!(list(&index).await.unwrap().len(), 3);
    let count = async |filter| index.list(filter, soon()).await.unwrap().len();
    assert_eq!(count(KeyFilter { legacy: Some(true), ..KeyFilter::default() }).await, 1);
    assert_eq!(count(KeyFilter { legacy: Some(false), ..KeyFilter::default() }).await, 2);
    let rsa = KeyFilter { algorithm: Some(Algorithm::Rsa2048), legacy: None };
    assert_eq!(count(rsa).await, 0);
    find(&index, "r2").await.unwrap();
    assert_eq!((source.lists(), source.finds()), (1, 0), "the list brought the keys");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_took_long_brings_nothing_back() {
    let script = Scripted::script(None, &["gone", "r1"]);
    let source = Arc::new(Scripted { slow_lists: Some(Semaphore::new(0)), ..script });
    let index = unwatched(&source, rules());
    let listing = tokio::spawn({
        let index = Arc::clone(&index);
        async move { list(&index).await }
    });
    pass(10).await;
    source.set("r1", KeyStatus::Disabled, None);
    source.edit().keys.remove("gone");
    assert_eq!(status(&index, "r1").await, KeyStatus::Disabled);
    assert_not_found(&find(&index, "gone").await);
    source.slow_lists.as_ref().unwrap().add_permits(1);
    assert_eq!(listing.await.unwrap().unwrap().len(), 2);
    assert_eq!(status(&index, "r1").await, KeyStatus::Disabled);
    assert_not_found(&find(&index, "gone").await);
}

#[tokio::test(start_paused = true)]
async fn no_more_keys_are_kept_than_allowed() {
    let kids: Vec<_> = (0..50).map(|n| format!("r{n}")).collect();
    let kids: Vec<_> = kids.iter().map(String::as_str).collect();
    let source = Scripted::with(Some(1), &kids);
    let index = watched(&source, CacheRules { capacity: 10, ..rules() });
    assert_eq!(list(&index).await.unwrap().len(), 50);
    assert_eq!(index.stats().entries, 10);
    for kid in kids {
        find(&index, kid).await.unwrap();
        assert!(index.stats().entries <= 10);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_in_use_outlive_keys_that_are_not() {
    let kids: Vec<_> = (0..10).map(|n| format!("r{n}")).collect();
    let kids: Vec<_> = kids.iter().map(String::as_str).collect();
    let source = Scripted::with(Some(1), &kids);
    let index = watched(&source, CacheRules { capacity: 8, ..rules() });
    for kid in &kids[..8] {
        find(&index, kid).await.unwrap();
    }
    find(&index, "r3").await.unwrap();
    find(&index, "r8").await.unwrap();
    let before = source.finds();
    find(&index, "r3").await.unwrap();
    assert_eq!(source.finds(), before);
    find(&index, "r0").await.unwrap();
    assert_eq!(source.finds(), before + 1, "an idle key had to go");
}
