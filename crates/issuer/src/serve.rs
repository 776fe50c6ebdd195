use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    pin,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::Answer;

/// Most connections at a time; others wait.
const CONNECTIONS: usize = 128;
/// How long a connection may take to send the head of a request, or be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// How long answers under way may take when told to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// How long not to accept after the system could not.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers HTTP/1.1 requests on `listener` with `answer` until `shutdown` completes. Heads of
/// requests, their time and the number of connections are bounded; bodies are up to `answer`.
///
/// When it returns, the listener and all connections are closed.
pub async fn serve<H, F>(listener: TcpListener, answer: H, shutdown: impl Future<Output = ()>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    pin!(shutdown);
    loop {
        let (slot, stream) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // What goes wrong with a connection is the client's to see.
            let _ = connection.await;
            drop(slot);
        });
    }
    drop(listener);
    // Connections that take longer are cut off with `connections`.
    let _ = timeout(DRAIN, graceful.shutdown()).await;
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (Option<tokio::sync::OwnedSemaphorePermit>, TcpStream) {
    // Nobody closes the semaphore.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (slot, stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(PAUSE).await;
            }
        }
    }
}
