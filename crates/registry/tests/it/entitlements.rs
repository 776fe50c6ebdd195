//! The document of entitlements.

use std::{sync::mpsc, time::Duration};

use kasbah_proto::kasbah::admin::v1::{
    GetEntitlementsRequest, GetEntitlementsResponse, SetEntitlementsRequest,
    SetEntitlementsResponse,
};
use kasbah_registry::Error;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use crate::harness::{Plane, Store, admin, on_both, over, refused};

const MAX: usize = 16 * 1024 * 1024;

async fn set(
    plane: &Plane,
    document: &str,
    expected_revision: Option<u64>,
) -> Result<SetEntitlementsResponse, Status> {
    let message = SetEntitlementsRequest { document: document.to_owned(), expected_revision };
    Ok(plane.admin().set_entitlements(admin(message)).await?.into_inner())
}

async fn get(plane: &Plane) -> GetEntitlementsResponse {
    let got = plane.admin().get_entitlements(admin(GetEntitlementsRequest {})).await;
    got.unwrap().into_inner()
}

async fn a_document_is_kept_as_it_was_written(store: Store) {
    let plane = Plane::start(store).await;
    assert_eq!(get(&plane).await, GetEntitlementsResponse::default());
    assert_eq!(plane.registry.entitlements().await.unwrap(), None);
    let text = "# ä\r\n\ta: [1]\n\n";
    let first = set(&plane, text, None).await.unwrap();
    assert_eq!(first.warnings, [] as [String; 0]);
    let got = get(&plane).await;
    assert_eq!((&*got.document, got.revision), (text, first.revision));
    assert_eq!(first.revision, plane.registry.database().revision().await.unwrap());
    let second = set(&plane, "odd", None).await.unwrap();
    assert_eq!(second.warnings, ["line 1: odd"]);
    assert!(second.revision > first.revision);
    let kept = plane.registry.entitlements().await.unwrap();
    assert_eq!(kept, Some(("odd".to_owned(), second.revision)));
}

async fn what_cannot_be_a_document_changes_nothing(store: Store) {
    let plane = Plane::start(store).await;
    let first = set(&plane, "good", None).await.unwrap().revision;
    for (document, text) in [
        ("", "the document is empty"),
        ("wrong", "line 1: wrong"),
        ("a\0b", "the document contains a NUL character"),
        (&*"x".repeat(MAX + 1), "the document is longer than 16 MiB"),
    ] {
        assert_eq!(
            refused(set(&plane, document, None).await),
            (Code::InvalidArgument, text.to_owned())
        );
        if document != "wrong" {
            let refused = plane.registry.set_entitlements(document, None).await;
            assert!(matches!(refused, Err(Error::Invalid(_))), "{text}");
        }
    }
    let beyond = refused(set(&plane, &"x".repeat(MAX + 1024 * 1024), None).await);
    assert_eq!(beyond.0, Code::OutOfRange, "not read at all: {beyond:?}");
    let now = plane.registry.database().revision().await.unwrap();
    assert_eq!((get(&plane).await.document, now), ("good".to_owned(), first));
}

async fn the_longest_document_is_kept(store: Store) {
    let plane = Plane::start(store).await;
    let document = "x".repeat(MAX);
    set(&plane, &document, None).await.unwrap();
    assert!(get(&plane).await.document == document);
}

async fn of_two_authors_one_is_told(store: Store) {
    let plane = Plane::start(store).await;
    let first = set(&plane, "one", Some(0)).await.unwrap().revision;
    plane.hsm("another change of the registry").await;
    let late = (
        Code::FailedPrecondition,
        format!(
            "the entitlements are at revision {first} and not 0; somebody else has changed them"
        ),
    );
    assert_eq!(refused(set(&plane, "two", Some(0)).await), late);
    let writes = (0..4).map(|number| {
        let registry = plane.registry.clone();
        tokio::spawn(async move {
            registry.set_entitlements(&format!("n{number}"), Some(first)).await.is_ok()
        })
    });
    let mut won = 0;
    for write in writes.collect::<Vec<_>>() {
        won += usize::from(write.await.unwrap());
    }
    assert_eq!(won, 1);
}

async fn it_is_audited_by_its_hash(store: Store) {
    let plane = Plane::start(store).await;
    let revision = set(&plane, "the document", None).await.unwrap().revision;
    set(&plane, "something wrong", None).await.unwrap_err();
    let events = plane.audit.events();
    let [done, failed] = &events[..] else { panic!("{events:?}") };
    let at = |event: &serde_json::Value, path: &str| event.pointer(path).unwrap().clone();
    assert_eq!(at(done, "/audit/action/type"), "update");
    assert_eq!(at(done, "/audit/action/result"), "success");
    assert_eq!(at(done, "/audit/object/type"), "entitlements");
    assert_eq!(at(done, "/audit/object/id"), revision.to_string());
    let sha256 = hex::encode(Sha256::digest("the document"));
    assert_eq!(at(done, "/audit/updated/sha256"), sha256);
    assert_eq!(at(failed, "/audit/action/result"), "error");
    assert_eq!(at(failed, "/audit/eventMetaData/kasbah/outcome"), "invalid");
    assert!(!serde_json::Value::Array(events).to_string().contains("the document"));
}

on_both!(
    a_document_is_kept_as_it_was_written,
    what_cannot_be_a_document_changes_nothing,
    the_longest_document_is_kept,
    of_two_authors_one_is_told,
    it_is_audited_by_its_hash,
);

#[tokio::test]
async fn other_nodes_hear_of_it() {
    let plane = Plane::start(Store::postgres()).await;
    let other = over(plane.store.open().await);
    let mut changes = other.database().changes();
    let database = other.database().clone();
    let listener = tokio::spawn(async move { database.listen().await });
    // Until the listener listens, what it would hear is lost.
    let heard = async {
        loop {
            let revision = set(&plane, "x", None).await.unwrap().revision;
            let heard = changes.wait_for(|heard| *heard >= revision);
            if tokio::time::timeout(Duration::from_millis(200), heard).await.is_ok() {
                return revision;
            }
        }
    };
    let revision = tokio::time::timeout(Duration::from_mins(1), heard).await.unwrap();
    assert!(other.entitlements().await.unwrap().unwrap().1 >= revision);
    listener.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_change_without_an_event() {
    let plane = Plane::start(Store::sqlite()).await;
    let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel());
    *plane.documents.pause.lock().unwrap() = Some((begin, ended));
    let mut client = plane.admin();
    let message = SetEntitlementsRequest { document: "one".into(), expected_revision: None };
    let call = tokio::spawn(async move { client.set_entitlements(admin(message)).await });
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // The server hears of it on the same connection, before it hears of this.
    assert_eq!(get(&plane).await.revision, 0);
    end.send(()).unwrap();
    let audited = async {
        while plane.audit.events().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), audited).await.unwrap();
    assert_eq!(get(&plane).await.document, "one");
}
