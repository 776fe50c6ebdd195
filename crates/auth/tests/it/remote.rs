use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use kasbah_auth::{
    IssuerSettings, KeySource, KeyState, RefusalKind, TokenRules, TokenVerifier, Tokens,
};
use serde_json::json;

use crate::{
    idp::{Answer, Idp, later, until},
    signer::{Signer, claims, jwks},
};

const MINUTE: Duration = Duration::from_mins(1);
const UNKNOWN_KID: &str = "its issuer has no key of its kid";

fn tokens(idp: &Idp) -> Arc<Tokens> {
    Arc::new(Tokens::new(vec![idp.settings()], TokenRules::default()).unwrap())
}

async fn refusal(tokens: &Tokens, token: &str) -> (RefusalKind, String) {
    let refusal = tokens.verify(token).await.unwrap_err();
    (refusal.kind, refusal.reason.into_owned())
}

fn health(tokens: &Tokens) -> KeyState {
    tokens.issuers()[0].keys
}

#[tokio::test]
async fn keys_are_found_when_they_are_needed() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let tokens = tokens(&idp);
    assert_eq!((idp.discoveries(), health(&tokens)), (0, KeyState::Missing));
    for _ in 0..10 {
        tokens.verify(&signer.token(&claims(&idp.issuer()))).await.unwrap();
    }
    assert_eq!((idp.discoveries(), idp.fetches()), (1, 1));
    assert_eq!(health(&tokens), KeyState::Current);
    later(5 * MINUTE).await;
    assert!(tokens.issuers()[0].age.unwrap() >= 5 * MINUTE);
}

/// Or a stranger who makes us look again could have everything verified anew.
#[tokio::test]
async fn the_same_keys_again_forget_no_token() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let tokens = tokens(&idp);
    let token = signer.token(&claims(&idp.issuer()));
    let first = tokens.verify(&token).await.unwrap();
    later(16 * MINUTE).await;
    tokens.prefetch();
    until(|| health(&tokens) == KeyState::Current).await;
    assert_eq!(idp.fetches(), 2);
    assert!(Arc::ptr_eq(&first, &tokens.verify(&token).await.unwrap()));
}

#[tokio::test]
async fn keys_can_be_fetched_ahead() {
    let idp = Idp::new(&[&Signer::new("1", "ES256")]).await;
    let tokens = tokens(&idp);
    tokens.prefetch();
    until(|| health(&tokens) == KeyState::Current).await;
}

#[tokio::test]
async fn a_configured_jwks_uri_needs_no_discovery() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let jwks_uri = Some(idp.jwks_uri().parse().unwrap());
    let keys = KeySource::Discovery { jwks_uri, ca_file: None, timeout: MINUTE };
    let settings = IssuerSettings { keys, ..idp.settings() };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    tokens.verify(&signer.token(&claims(&idp.issuer()))).await.unwrap();
    assert_eq!((idp.discoveries(), idp.fetches()), (0, 1));
}

#[tokio::test]
async fn what_an_issuer_says_of_itself_is_known_once_it_was_reached() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let issuer = idp.issuer();
    let answer = |token_endpoint: &str| {
        let document = json!({
            "issuer": issuer, "jwks_uri": idp.jwks_uri(), "token_endpoint": token_endpoint,
            "userinfo_endpoint": 7, "more": "x",
        });
        idp.answer_discovery(Answer::With(200, document.to_string().into()));
    };
    let tokens = tokens(&idp);
    let members = async || {
        let metadata = tokens.metadata(&issuer).await.unwrap();
        serde_json::Value::from(metadata.members().clone())
    };
    let known = |token_endpoint: &str| {
        json!({
            "issuer": issuer, "jwks_uri": idp.jwks_uri(), "token_endpoint": token_endpoint,
        })
    };
    let name = json!({ "issuer": issuer });
    idp.answer_discovery(Answer::With(500, "no".into()));
    assert_eq!(members().await, name);
    assert_eq!(members().await, name);
    assert_eq!(idp.discoveries(), 1, "an issuer that fails is left alone");
    later(Duration::from_secs(2)).await;
    answer("https://a.example/token");
    assert_eq!(members().await, known("https://a.example/token"));

    // A change is seen with the next keys, for which nobody waits.
    answer("https://b.example/token");
    assert_eq!(members().await, known("https://a.example/token"));
    later(16 * MINUTE).await;
    members().await;
    until(|| idp.fetches() == 2 && health(&tokens) == KeyState::Current).await;
    assert_eq!(members().await, known("https://b.example/token"));

    // It stays known while the issuer fails.
    idp.answer_discovery(Answer::With(500, "no".into()));
    later(120 * MINUTE).await;
    assert_eq!(members().await, known("https://b.example/token"));
    assert_eq!(tokens.metadata("https://other.example").await, None);
}

#[tokio::test]
async fn nobody_waits_long_for_what_a_silent_issuer_says() {
    let idp = Idp::new(&[&Signer::new("1", "ES256")]).await;
    idp.answer_discovery(Answer::Silent);
    let began = tokio::time::Instant::now();
    let tokens = tokens(&idp);
    let metadata = tokens.metadata(&idp.issuer()).await.unwrap();
    assert_eq!(metadata.members().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(15), "its timeout is 20 seconds");
}

/// What real issuers publish has room within the bounds.
#[tokio::test]
async fn long_documents_are_read() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let discovery = json!({
        "issuer": idp.issuer(), "jwks_uri": idp.jwks_uri(), "more": "x".repeat(200 << 10),
    });
    idp.answer_discovery(Answer::With(200, discovery.to_string().into()));
    let mut keys: serde_json::Value = serde_json::from_str(&jwks(&[&signer])).unwrap();
    keys["more"] = "x".repeat(900 << 10).into();
    idp.answer_jwks(Answer::With(200, keys.to_string().into()));
    tokens(&idp).verify(&signer.token(&claims(&idp.issuer()))).await.unwrap();
}

#[tokio::test]
async fn a_rotation_is_followed() {
    let (old, new) = (Signer::new("1", "ES256"), Signer::new("2", "RS256"));
    let idp = Idp::new(&[&old]).await;
    let tokens = tokens(&idp);
    let claims = claims(&idp.issuer());
    let (of_old, of_new) = (old.token(&claims), new.token(&claims));
    tokens.verify(&of_old).await.unwrap();

    // A new key beside the old one is found at once, as a token names it.
    idp.rotate(&[&old, &new]);
    tokens.verify(&of_new).await.unwrap();
    tokens.verify(&of_old).await.unwrap();
    assert_eq!(idp.fetches(), 2);

    // The old key is taken away: a remembered token goes with it.
    idp.rotate(&[&new]);
    tokens.verify(&of_old).await.unwrap();
    later(16 * MINUTE).await;
    tokens.verify(&of_new).await.unwrap();
    until(|| health(&tokens) == KeyState::Current).await;
    assert_eq!(refusal(&tokens, &of_old).await, (RefusalKind::Token, UNKNOWN_KID.to_owned()));
    tokens.verify(&of_new).await.unwrap();
}

/// An issuer that names no keys in its tokens and replaces its only one.
#[tokio::test]
async fn the_rotation_of_an_only_key_is_followed() {
    let (old, new) = (Signer::new("1", "ES256"), Signer::new("2", "ES256"));
    let idp = Idp::new(&[&old]).await;
    let tokens = tokens(&idp);
    let nameless = |signer: &Signer| {
        signer.sign(&json!({ "alg": "ES256", "typ": "JWT" }), &claims(&idp.issuer()))
    };
    tokens.verify(&nameless(&old)).await.unwrap();
    idp.rotate(&[&new]);
    tokens.verify(&nameless(&new)).await.unwrap();
    assert_eq!(refusal(&tokens, &nameless(&old)).await.1, "its signature is wrong");
}

#[tokio::test]
async fn an_emptied_set_revokes_every_key() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let tokens = tokens(&idp);
    let token = signer.token(&claims(&idp.issuer()));
    tokens.verify(&token).await.unwrap();
    idp.rotate(&[]);
    later(16 * MINUTE).await;
    tokens.prefetch();
    until(|| health(&tokens) == KeyState::Current).await;
    assert_eq!(refusal(&tokens, &token).await, (RefusalKind::Token, UNKNOWN_KID.to_owned()));
}

#[tokio::test]
async fn a_storm_of_unknown_kids_is_one_fetch() {
    let (known, unknown) = (Signer::new("1", "ES256"), Signer::new("2", "ES256"));
    let idp = Idp::new(&[&known]).await;
    let tokens = tokens(&idp);
    let claims = claims(&idp.issuer());
    let good = known.token(&claims);
    tokens.verify(&good).await.unwrap();
    assert_eq!(idp.fetches(), 1);

    idp.hold(true);
    let storm: Vec<_> = (0..1000)
        .map(|kid| {
            let header = json!({ "alg": "ES256", "kid": kid.to_string() + "x" });
            let (tokens, token) = (Arc::clone(&tokens), unknown.sign(&header, &claims));
            tokio::spawn(async move { refusal(&tokens, &token).await })
        })
        .collect();
    until(|| idp.discoveries() == 2).await;
    // Who has a known key does not wait for that.
    tokens.verify(&good).await.unwrap();
    idp.hold(false);
    for outcome in join_all(storm).await {
        assert_eq!(outcome.unwrap(), (RefusalKind::Token, UNKNOWN_KID.to_owned()));
    }
    assert_eq!(idp.fetches(), 2);

    let rest = tokens.verify(&unknown.token(&claims)).await.unwrap_err();
    assert_eq!((rest.kind, idp.fetches()), (RefusalKind::Token, 2));
    later(Duration::from_secs(11)).await;
    idp.rotate(&[&known, &unknown]);
    tokens.verify(&unknown.token(&claims)).await.unwrap();
    assert_eq!(idp.fetches(), 3);
}

#[tokio::test]
async fn one_after_the_other_makes_no_more_fetches_than_all_at_once() {
    let (known, unknown) = (Signer::new("1", "ES256"), Signer::new("2", "ES256"));
    let idp = Idp::new(&[&known]).await;
    let tokens = tokens(&idp);
    let claims = claims(&idp.issuer());
    tokens.verify(&known.token(&claims)).await.unwrap();
    for _ in 0..10 {
        let told = refusal(&tokens, &unknown.token(&claims)).await;
        assert_eq!(told, (RefusalKind::Token, UNKNOWN_KID.to_owned()));
    }
    assert_eq!(idp.fetches(), 2);
}

#[tokio::test]
async fn a_storm_at_the_start_is_one_fetch() {
    let (known, unknown) = (Signer::new("1", "ES256"), Signer::new("2", "ES256"));
    let idp = Idp::new(&[&known]).await;
    let tokens = tokens(&idp);
    let token = unknown.token(&claims(&idp.issuer()));
    let outcomes = join_all((0..200).map(|_| refusal(&tokens, &token))).await;
    assert!(outcomes.iter().all(|(_, reason)| reason == UNKNOWN_KID));
    assert_eq!(idp.fetches(), 1);
}

#[tokio::test]
async fn an_outage_is_bridged_for_a_while() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let tokens = tokens(&idp);
    let token = || signer.token(&claims(&idp.issuer()));
    let remembered = token();
    tokens.verify(&remembered).await.unwrap();

    idp.answer_jwks(Answer::With(500, "".into()));
    later(16 * MINUTE).await;
    tokens.verify(&remembered).await.unwrap();
    tokens.verify(&token()).await.unwrap();
    assert_eq!(health(&tokens), KeyState::Stale);
    until(|| idp.fetches() == 2).await;
    // It may be the issuer's, but nobody can tell.
    later(Duration::from_secs(2)).await;
    let stranger = Signer::new("2", "ES256").token(&claims(&idp.issuer()));
    let failed = (RefusalKind::Unavailable, "the issuer did not answer with 200".to_owned());
    assert_eq!(refusal(&tokens, &stranger).await, failed);

    later(43 * MINUTE).await;
    tokens.verify(&token()).await.unwrap();
    later(2 * MINUTE).await;
    assert_eq!(refusal(&tokens, &remembered).await, failed);
    assert_eq!(refusal(&tokens, &token()).await, failed);
    assert_eq!(health(&tokens), KeyState::Missing);

    idp.answer_jwks(Answer::Good);
    later(Duration::from_secs(2)).await;
    tokens.verify(&remembered).await.unwrap();
    tokens.verify(&token()).await.unwrap();
    assert_eq!(health(&tokens), KeyState::Current);
}

#[tokio::test]
async fn a_failing_issuer_is_left_alone_for_a_second() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let tokens = tokens(&idp);
    idp.answer_jwks(Answer::With(503, "".into()));
    let token = signer.token(&claims(&idp.issuer()));
    refusal(&tokens, &token).await;
    assert_eq!(idp.fetches(), 1);
    // With the clock at rest; none of these asks, so nothing has to be waited for.
    tokio::time::pause();
    for _ in 0..100 {
        assert_eq!(refusal(&tokens, &token).await.0, RefusalKind::Unavailable);
    }
    tokio::time::resume();
    assert_eq!(idp.fetches(), 1);
    later(Duration::from_secs(1)).await;
    refusal(&tokens, &token).await;
    assert_eq!(idp.fetches(), 2);
}

#[tokio::test]
async fn a_fetch_outlives_the_request_that_started_it() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let tokens = tokens(&idp);
    idp.hold(true);
    let request = {
        let (tokens, token) = (Arc::clone(&tokens), signer.token(&claims(&idp.issuer())));
        tokio::spawn(async move { tokens.verify(&token).await })
    };
    until(|| idp.discoveries() == 1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    idp.hold(false);
    until(|| health(&tokens) == KeyState::Current).await;
    assert_eq!((idp.discoveries(), idp.fetches()), (1, 1));
}

#[tokio::test]
async fn an_issuer_may_start_later() {
    let signer = Signer::new("1", "ES256");
    // Nobody listens at its port any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let idp = Idp::new(&[&signer]).await;
    let keys = KeySource::Discovery {
        jwks_uri: Some(format!("http://{gone}/keys").parse().unwrap()),
        ca_file: None,
        timeout: MINUTE,
    };
    let settings = IssuerSettings { keys, ..idp.settings() };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    let (kind, reason) = refusal(&tokens, &signer.token(&claims(&idp.issuer()))).await;
    assert_eq!(kind, RefusalKind::Unavailable);
    assert_eq!(reason, "the issuer cannot be reached, or its answer cannot be read");
}

/// Each in place of a good answer; and what came before is still used.
#[tokio::test]
async fn bad_answers_change_nothing() {
    let (signer, other) = (Signer::new("1", "ES256"), Signer::new("1", "ES256"));
    let mut keys = jwks(&[&signer]);
    keys.insert_str(keys.len() - 1, &format!(",\"x\":\"{}\"", "x".repeat(10 << 20)));
    let nameless = jwks(&[&signer, &other]).replacen(",\"kid\":\"1\"", "", 1).replacen(
        "\"kid\":\"1\",",
        "",
        1,
    );
    let unreadable = "the issuer cannot be reached, or its answer cannot be read";
    let status = "the issuer did not answer with 200";
    let form = "the issuer's JWKS is not a JSON Web Key Set";
    for (code, body, reason) in [
        (200, keys, unreadable),
        (200, "<html>".to_owned(), form),
        (200, String::new(), form),
        (200, json!({ "keys": {} }).to_string(), form),
        (200, json!([signer.jwk()]).to_string(), form),
        (200, jwks(&[&signer, &other]), "the issuer's JWKS has two keys of one kid"),
        (200, nameless, "a key of the issuer's JWKS has no kid and is not the only one"),
        (302, jwks(&[&signer]), status),
        (500, jwks(&[&signer]), status),
        (404, jwks(&[&signer]), status),
        (204, String::new(), status),
    ] {
        let idp = Idp::new(&[&signer]).await;
        let token = signer.token(&claims(&idp.issuer()));
        let warm = tokens(&idp);
        warm.verify(&token).await.unwrap();

        idp.answer_jwks(Answer::With(code, body.into()));
        let failed = (RefusalKind::Unavailable, reason.to_owned());
        assert_eq!(refusal(&tokens(&idp), &token).await, failed);
        later(16 * MINUTE).await;
        warm.prefetch();
        until(|| idp.fetches() == 3).await;
        warm.verify(&signer.token(&claims(&idp.issuer()))).await.unwrap();
    }
}

#[tokio::test]
async fn bad_discovery_documents_are_refused() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let token = signer.token(&claims(&idp.issuer()));
    let good = json!({ "issuer": idp.issuer(), "jwks_uri": idp.jwks_uri() }).to_string();
    let form = "the issuer's discovery document is not a JSON object with issuer and jwks_uri";
    let long = good.replace('}', &format!(",\"x\":\"{}\"}}", "x".repeat(256 << 10)));
    for (code, body, reason) in [
        (
            200,
            good.replace("realms/one", "realms/two"),
            "the issuer's discovery document names another issuer",
        ),
        (
            200,
            good.replace("\"http://127.0.0.1", "\"ftp://127.0.0.1").replacen(
                "\"issuer\":\"ftp",
                "\"issuer\":\"http",
                1,
            ),
            "the issuer's jwks_uri is no https URL; http is for issuers with http alone",
        ),
        (200, "garbage".to_owned(), form),
        (200, long, "the issuer cannot be reached, or its answer cannot be read"),
        (302, good.clone(), "the issuer did not answer with 200"),
        (500, good.clone(), "the issuer did not answer with 200"),
    ] {
        idp.answer_discovery(Answer::With(code, body.into()));
        let failed = (RefusalKind::Unavailable, reason.to_owned());
        assert_eq!(refusal(&tokens(&idp), &token).await, failed);
    }
    assert_eq!(idp.fetches(), 0);
    idp.answer_discovery(Answer::With(200, good.into()));
    tokens(&idp).verify(&token).await.unwrap();
}

#[tokio::test]
async fn a_silent_issuer_is_given_up() {
    let signer = Signer::new("1", "ES256");
    let idp = Idp::new(&[&signer]).await;
    let keys =
        KeySource::Discovery { jwks_uri: None, ca_file: None, timeout: Duration::from_millis(200) };
    idp.answer_jwks(Answer::Silent);
    let settings = IssuerSettings { keys, ..idp.settings() };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    let outcome = refusal(&tokens, &signer.token(&claims(&idp.issuer()))).await;
    assert_eq!(outcome, (RefusalKind::Unavailable, "the issuer did not answer in time".to_owned()));
}
