//! SIGKILL while a key is being made: nothing that was acknowledged is lost, and `reconcile` names
//! and repairs whatever is left.
//!
//! A kill is aimed (see [`Aim`]), and what it hit is told from what is there afterwards (see
//! [`Window`]), by the word of the server and of the token itself. `KASBAH_CRASH_KILLS` is the
//! number of kills; `make crash` has 200 of them.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::{Attribute, AttributeType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};
use cryptoki_sys::{
    CKA_CHECK_VALUE, CKA_CLASS, CKA_COEFFICIENT, CKA_EC_PARAMS, CKA_LOCAL, CKA_MODULUS, CKA_VALUE,
    CKO_PRIVATE_KEY, CKO_SECRET_KEY,
};
use kasbah_proto::{
    kasbah::admin::v1::{Finding, finding::Kind},
    policy::{KasKey, KeyMode},
};
use kasbah_system_tests::{
    admin::{ADMIN, Admin, EC_P256, RSA_2048, pem_of},
    client::{POLICY, SessionKey, kao, random_dek},
    recorder::{Moment, Recorder},
    server::{Server, Setup},
};
use kasbah_testkit::tokens::{PIN, SoftHsm, TestToken};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};
use tonic::{Code, Status};

const MAKE: &str = "C_GenerateKeyPair";

/// What a kill is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// The call to the token, before it.
    Before,
    /// The token at work, and a little longer.
    During,
    /// What the server does between the token's answer and its own, and a little longer.
    After,
    /// The answer, which does not reach the client.
    Answer,
    /// A server that has just answered: no hit, but the client knows of a key then.
    Answered,
}

/// They take turns.
const AIMS: [Aim; 8] = [
    Aim::Before,
    Aim::During,
    Aim::After,
    Aim::During,
    Aim::Answer,
    Aim::After,
    Aim::During,
    Aim::Answered,
];

/// When the server dies.
#[derive(Debug, Clone, Copy)]
enum Blow {
    At(&'static str, Moment),
    Answer,
    Answered,
}

/// What a kill left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Window {
    /// An intent, and nothing in the token.
    GenerateNothing,
    /// An intent, and half a key pair.
    GenerateHalf,
    /// An intent, and a key pair.
    Commit,
    /// A registered key that the client was not told of.
    Reply,
    /// A registered key that the client was told of; does not count as a hit.
    Acknowledged,
}

/// Delays that home in on the moment at which what they hit changes, on any machine.
struct Span {
    micros: f64,
    shots: f64,
}

impl Span {
    fn new(start: Duration) -> Self {
        Self { micros: start.as_secs_f64() * 1e6, shots: 0.0 }
    }

    /// The next of delays spread evenly around the span.
    fn next(&mut self) -> Duration {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        self.shots += 1.0;
        Duration::from_secs_f64(self.micros * (0.3 + 1.4 * (self.shots * GOLDEN).fract()) / 1e6)
    }

    fn learn(&mut self, was_late: bool) {
        self.micros *= if was_late { 0.85 } else { 1.15 };
    }
}

struct Rig {
    fixture: TestToken,
    recorder: Recorder,
    server: Option<Server>,
    admin: Admin,
    provider: String,
    /// Kid and PEM of every key that is there to stay.
    keys: BTreeMap<String, String>,
    /// The token without the server, and without the recorder.
    token: Session,
}

impl Rig {
    async fn new() -> Self {
        let fixture = SoftHsm::fresh();
        let recorder = Recorder::around(fixture.module_path());
        let mut setup = Setup::new();
        setup.registry("sqlite:registry.db");
        let config = setup.token("softhsm", &fixture, "prefer-sealed");
        setup.config["modules"]["softhsm"]["path"] = json!(Recorder::module());
        let server = setup.serve();
        let admin = server.admin();
        admin.create_kas().await;
        let config = config.to_string();
        let provider = admin.create_provider("softhsm", "opentdf.io/hsm", &config).await.unwrap();
        let token = open(&fixture);
        let keys = BTreeMap::new();
        Self { fixture, recorder, server: Some(server), admin, provider, keys, token }
    }

    fn server(&mut self) -> &mut Server {
        self.server.as_mut().unwrap()
    }

    /// Starts the server again; if it did not die yet, it does now.
    fn restart(&mut self) {
        self.recorder.spare();
        let setup = self.server.take().unwrap().kill();
        self.admin = self.server.insert(setup.serve()).admin();
    }

    /// Has a key made, and the server die of it; the key if it was acknowledged nevertheless.
    async fn generate(
        &mut self,
        kid: &str,
        algorithm: i32,
        mode: KeyMode,
        blow: Blow,
    ) -> Option<KasKey> {
        let mut admin = self.admin.clone();
        match blow {
            Blow::At(function, moment) => self.recorder.kill(function, moment),
            Blow::Answer => {
                let server = self.server();
                let url = kills_at_answer(server.address.clone(), server.pid()).await;
                admin = Admin::new(url, &server.token(ADMIN), &admin.kas_uri);
            }
            Blow::Answered => {}
        }
        let answer = admin.generate(&self.provider, kid, algorithm, mode, "").await;
        let key = answer.map_err(|status| self.assert_killed(&status)).ok();
        self.restart();
        key
    }

    /// A failure that is not the kill would be a failure of the test.
    fn assert_killed(&mut self, status: &Status) {
        let pid = self.server().pid();
        let start = Instant::now();
        let signal = loop {
            if let Some(signal) = signal(pid) {
                break signal;
            }
            let waited = start.elapsed() > Duration::from_secs(30);
            assert!(!waited, "it lives, and says {status:?}\n{}", self.server().log());
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(signal, 9, "{status:?}\n{}", self.server().log());
    }

    /// Tells what was hit, has it repaired, and looks whether all is well.
    async fn examine(&mut self, kid: &str, acknowledged: Option<KasKey>) -> Window {
        if let Some(key) = &acknowledged {
            self.keys.insert(kid.to_owned(), pem_of(key));
        }
        let findings = self.admin.reconcile(false).await;
        assert!(findings.iter().all(|finding| finding.kid == kid && !finding.repaired));
        let kinds: Vec<_> = findings.iter().map(Finding::kind).collect();
        let window = match (&kinds[..], &acknowledged) {
            ([Kind::InterruptedBeforeKey], None) => Window::GenerateNothing,
            ([Kind::HalfKey], None) => Window::GenerateHalf,
            ([Kind::InterruptedBeforeCommit], None) => Window::Commit,
            ([], None) => Window::Reply,
            ([], Some(_)) => Window::Acknowledged,
            _ => panic!("{kid}, {acknowledged:?}: {findings:?}\n{}", self.server().log()),
        };
        assert_eq!(self.admin.key(kid).await.is_ok(), kinds.is_empty(), "{kid}: {findings:?}");

        let mut repaired = self.admin.reconcile(true).await;
        assert!(repaired.iter().all(|finding| finding.repaired), "{repaired:?}");
        for finding in &mut repaired {
            finding.repaired = false;
        }
        assert_eq!(repaired, findings, "a repair is of what was named");
        assert_eq!(self.admin.reconcile(false).await, []);
        self.assert_kept(kid, window).await;
        window
    }

    async fn assert_kept(&mut self, kid: &str, window: Window) {
        match (self.admin.key(kid).await, window) {
            (Ok(key), Window::Commit | Window::Reply | Window::Acknowledged) => {
                self.keys.entry(kid.to_owned()).or_insert_with(|| pem_of(&key));
            }
            (Err(status), Window::GenerateHalf | Window::GenerateNothing) => {
                assert_eq!(status.code(), Code::NotFound, "{kid}");
            }
            (other, window) => panic!("{kid}, {window:?}: {other:?}"),
        }
        for (kid, pem) in &self.keys {
            assert_eq!(pem_of(&self.admin.key(kid).await.unwrap()), *pem, "{kid}");
        }
        let whole = |kid: &String| (kid.clone(), vec!["private", "public"]);
        let expected: BTreeMap<_, _> = self.keys.keys().map(whole).collect();
        assert_eq!(self.key_pairs(), expected, "the token has what is registered");
        self.fragments();
    }

    /// Which halves the token has of each key.
    fn key_pairs(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut pairs = BTreeMap::<_, Vec<_>>::new();
        let halves = [("private", ObjectClass::PRIVATE_KEY), ("public", ObjectClass::PUBLIC_KEY)];
        for (half, class) in halves {
            let filter = [Attribute::Class(class), Attribute::Token(true)];
            for object in self.token.find_objects(&filter).unwrap() {
                let label = self.token.get_attributes(object, &[AttributeType::Label]).unwrap();
                let [Attribute::Label(label)] = &label[..] else { panic!("{label:?}") };
                pairs.entry(String::from_utf8_lossy(label).into_owned()).or_default().push(half);
            }
        }
        pairs
    }

    /// How many objects there are that SoftHSM began to write and does not count as the token's.
    /// They have no name and none of the numbers of a key, so that nothing finds or uses them.
    fn fragments(&self) -> usize {
        let kinds = [
            AttributeType::Label,
            AttributeType::Id,
            AttributeType::EcParams,
            AttributeType::EcPoint,
            AttributeType::Modulus,
        ];
        let fragments = self.token.find_objects(&[Attribute::Token(false)]).unwrap();
        for &fragment in &fragments {
            for attribute in self.token.get_attributes(fragment, &kinds).unwrap() {
                let (Attribute::Label(bytes)
                | Attribute::Id(bytes)
                | Attribute::EcParams(bytes)
                | Attribute::EcPoint(bytes)
                | Attribute::Modulus(bytes)) = &attribute
                else {
                    panic!("{attribute:?}");
                };
                assert!(bytes.is_empty(), "{attribute:?}");
            }
        }
        fragments.len()
    }

    /// Rewraps once with every key.
    async fn assert_all_rewrap(&self) {
        let kas = self.server.as_ref().unwrap().connect("alice").await;
        let client = SessionKey::ec();
        for (kid, pem) in &self.keys {
            let dek = random_dek();
            let answer = kas.rewrap_one(&client, POLICY, &kao(kid, pem, &dek, POLICY)).await;
            assert_eq!(answer.as_ref().map(|rewrapped| &rewrapped.dek), Ok(&dek), "{kid}");
        }
    }
}

fn open(fixture: &TestToken) -> Session {
    let module = Pkcs11::new(fixture.module_path()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = module.get_slots_with_token().unwrap();
    let is_ours = |slot: &_| module.get_token_info(*slot).unwrap().label() == fixture.label();
    let session = module.open_ro_session(slots.into_iter().find(is_ours).unwrap()).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(Box::<str>::from(PIN)))).unwrap();
    session
}

/// The signal that ended a child of ours that nobody waited for; `None` while it lives.
fn signal(pid: u32) -> Option<u32> {
    // See proc_pid_stat(5). The second field has the name, in brackets.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[0] == "Z").then(|| fields[49].parse().unwrap())
}

/// URL of a proxy for one connection. It passes bytes on until the server begins to answer a call:
/// then it kills the server and keeps the answer.
async fn kills_at_answer(address: String, pid: u32) -> String {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = listener.accept().await.unwrap().0.into_split();
        let server = TcpStream::connect(address).await.unwrap();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
        // Frames of HTTP/2 (RFC 9113, section 4.1).
        let mut header = [0; 9];
        while from_server.read_exact(&mut header).await.is_ok() {
            let [a, b, c, kind, ..] = header;
            let mut frame = header.to_vec();
            frame.resize(9 + u32::from_be_bytes([0, a, b, c]) as usize, 0);
            from_server.read_exact(&mut frame[9..]).await.unwrap();
            if [DATA, HEADERS].contains(&kind) {
                kill(pid);
                break;
            }
            to_client.write_all(&frame).await.unwrap();
        }
    });
    url
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

/// Aims, and remembers what was hit.
struct Gun {
    during: [Span; 2],
    after: [Span; 2],
    hits: BTreeMap<Window, usize>,
}

impl Gun {
    fn new() -> Self {
        let span = |millis| Span::new(Duration::from_millis(millis));
        Self { during: [span(20), span(150)], after: [span(5), span(5)], hits: BTreeMap::new() }
    }

    fn aim(&mut self, aim: Aim, is_rsa: bool) -> Blow {
        let rsa = usize::from(is_rsa);
        match aim {
            Aim::Before => Blow::At(MAKE, Moment::Before),
            Aim::During => Blow::At(MAKE, Moment::During(self.during[rsa].next())),
            Aim::After => Blow::At(MAKE, Moment::After(self.after[rsa].next())),
            Aim::Answer => Blow::Answer,
            Aim::Answered => Blow::Answered,
        }
    }

    fn hit(&mut self, aim: Aim, is_rsa: bool, window: Window) {
        let rsa = usize::from(is_rsa);
        match aim {
            Aim::During => self.during[rsa].learn(window >= Window::Commit),
            Aim::After => self.after[rsa].learn(window > Window::Commit),
            Aim::Before | Aim::Answer | Aim::Answered => {}
        }
        *self.hits.entry(window).or_default() += 1;
    }

    /// Hits while the key was generated, before it was registered, and before the reply.
    fn count(&self) -> [usize; 3] {
        let hits = |window| self.hits.get(&window).copied().unwrap_or_default();
        let generate = hits(Window::GenerateNothing) + hits(Window::GenerateHalf);
        [generate, hits(Window::Commit), hits(Window::Reply)]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_and_leaves_nothing() {
    let kills = env::var("KASBAH_CRASH_KILLS").map_or(40, |kills| kills.parse().unwrap());
    let least = (kills / 10).max(8);
    let start = Instant::now();
    let (mut rig, mut gun) = (Rig::new().await, Gun::new());
    for round in 0.. {
        let count = gun.count();
        if count.iter().sum::<usize>() >= kills && count.iter().all(|hits| *hits >= least) {
            break;
        }
        assert!(round < 2 * kills, "a window is hardly ever hit: {:?}", gun.hits);
        let (kid, aim, is_rsa) = (format!("k{round}"), AIMS[round % AIMS.len()], round % 5 == 4);
        let algorithm = if is_rsa { RSA_2048 } else { EC_P256 };
        let blow = gun.aim(aim, is_rsa);
        let key = rig.generate(&kid, algorithm, KeyMode::Remote, blow).await;
        let window = rig.examine(&kid, key).await;
        gun.hit(aim, is_rsa, window);
    }
    rig.assert_all_rewrap().await;
    println!(
        "{:?} in {:?}; {} keys rewrapped; {} fragments",
        gun.hits,
        start.elapsed(),
        rig.keys.len(),
        rig.fragments()
    );
}

/// A key that is stored outside the token is a session object until then, and leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_nothing_of_a_wrapped_key() {
    let mut rig = Rig::new().await;
    let mode = KeyMode::ProviderRootKey;
    // Has the wrapping key made.
    rig.admin.generate(&rig.provider, "w0", EC_P256, mode, "").await.unwrap();
    let now = Moment::After(Duration::ZERO);
    let blows = [
        (MAKE, Moment::Before),
        (MAKE, now),
        ("C_WrapKey", now),
        ("C_UnwrapKey", now),
        ("C_Sign", now),
    ];
    for (function, moment) in blows {
        let key = rig.generate("w1", EC_P256, mode, Blow::At(function, moment)).await;
        assert_eq!(rig.examine("w1", key).await, Window::GenerateNothing, "{function} {moment:?}");
    }
    assert_eq!(rig.fragments(), 0);
    rig.admin.generate(&rig.provider, "w1", EC_P256, mode, "").await.unwrap();
    for kid in ["w0", "w1"] {
        rig.keys.insert(kid.to_owned(), pem_of(&rig.admin.key(kid).await.unwrap()));
    }
    rig.assert_all_rewrap().await;
}

/// SoftHSM writes down that there is a private key, and a moment later its numbers. A kill between
/// the two is too rare to wait for, so the numbers are taken out of what a later one left.
async fn without_numbers(kid: &str, algorithm: i32) {
    let mut rig = Rig::new().await;
    rig.recorder.kill(MAKE, Moment::After(Duration::ZERO));
    let answer = rig.admin.generate(&rig.provider, kid, algorithm, KeyMode::Remote, "").await;
    rig.assert_killed(&answer.unwrap_err());
    assert_eq!(empty_objects(rig.fixture.dir(), &without_private_numbers), 1);
    rig.restart();
    assert_eq!(rig.examine(kid, None).await, Window::GenerateHalf);
    let key = rig.generate(kid, algorithm, KeyMode::Remote, Blow::Answered).await;
    assert_eq!(rig.examine(kid, key).await, Window::Acknowledged);
    rig.assert_all_rewrap().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ec_key_without_its_number_is_half_a_key() {
    without_numbers("e1", EC_P256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_without_its_numbers_is_half_a_key() {
    without_numbers("r1", RSA_2048).await;
}

/// Empties objects below this directory of SoftHSM; how many. `empty` answers `None` for those that
/// it leaves alone.
fn empty_objects(dir: &Path, empty: &impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count += empty_objects(&path, empty);
        } else if path.extension().is_some_and(|extension| extension == "object")
            && let Some(emptied) = empty(fs::read(&path).unwrap())
        {
            fs::write(&path, emptied).unwrap();
            count += 1;
        }
    }
    count
}

/// SoftHSM writes down that there is a wrapping key, too, before it writes the key.
#[tokio::test(flavor = "multi_thread")]
async fn wrapping_keys_without_a_value_are_not_in_the_way() {
    let mut rig = Rig::new().await;
    let make = async |rig: &Rig, kid: &str| {
        rig.admin.generate(&rig.provider, kid, EC_P256, KeyMode::ProviderRootKey, "").await
    };
    make(&rig, "w0").await.unwrap();
    let setup = rig.server.take().unwrap().kill();
    assert_eq!(
        empty_objects(rig.fixture.dir(), &without_secret_value),
        2,
        "one wraps, one vouches"
    );
    rig.admin = rig.server.insert(setup.serve()).admin();
    let key = make(&rig, "w1").await.unwrap();
    rig.keys.insert("w1".to_owned(), pem_of(&key));
    rig.assert_all_rewrap().await;
    rig.restart();
    rig.assert_all_rewrap().await;
}

/// The file of a secret key in SoftHSM as it is before the key is made: without a value and what is
/// derived from it; `None` for other objects.
fn without_secret_value(file: Vec<u8>) -> Option<Vec<u8>> {
    let mut file = emptied(file, CKO_SECRET_KEY, &[CKA_VALUE, CKA_CHECK_VALUE])?;
    let local = words(&[CKA_LOCAL, TRUTH]);
    let at = file.windows(16).position(|window| window == local).unwrap();
    file[at + 16] = 0;
    Some(file)
}

/// The file of a private key in SoftHSM with its numbers emptied; `None` for other objects.
fn without_private_numbers(file: Vec<u8>) -> Option<Vec<u8>> {
    let numbers: Vec<_> =
        [CKA_VALUE, CKA_EC_PARAMS].into_iter().chain(CKA_MODULUS..=CKA_COEFFICIENT).collect();
    emptied(file, CKO_PRIVATE_KEY, &numbers)
}

/// Kinds of values in files of SoftHSM.
const TRUTH: u64 = 1;
const NUMBER: u64 = 2;
const BYTES: u64 = 3;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The file of an object of this class with attributes emptied; `None` for other objects. Such a
/// file has eight bytes for its generation, and attributes of type, kind, length and bytes.
fn emptied(mut file: Vec<u8>, class: u64, attributes: &[u64]) -> Option<Vec<u8>> {
    if !file[8..].starts_with(&words(&[CKA_CLASS, NUMBER, class])) {
        return None;
    }
    for &kind in attributes {
        let start = words(&[kind, BYTES]);
        if let Some(at) = file.windows(16).position(|window| window == start) {
            let value = at + 24;
            let length = u64::from_be_bytes(file[at + 16..value].try_into().unwrap());
            file.splice(at + 16..value + usize::try_from(length).unwrap(), [0; 8]);
        }
    }
    Some(file)
}
