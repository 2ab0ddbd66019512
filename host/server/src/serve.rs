use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rocmforge_loader::config::ServerSettings;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::error::{ServerError, local_address};
use crate::http::access::{MAX_HEADER_LINES, MAX_HEADERS};
use crate::http::addresses::{Addresses, Counted};
use crate::http::patience::Patient;
use crate::http::refusal::Worded;
use crate::http::tls;
use crate::routes::router;
use crate::state::AppState;
use crate::traces::Exporter;

/// How long a client may take to send headers; also how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may not read what it is sent; longer than the engine waits before it gives the request up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(90);
/// What answers get to say that they were cancelled, and connections to be closed, when the time to drain is over.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between attempts to accept when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens as the settings say.
///
/// # Errors
/// The address is none, or cannot be listened on.
pub async fn bind(settings: &ServerSettings) -> Result<TcpListener, ServerError> {
    let host = settings.host.trim_start_matches('[').trim_end_matches(']').to_string();
    let port = settings.port;
    let shown = format!("{}:{port}", settings.host);
    let resolve = tokio::task::spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    let addresses = resolve.await.map_err(std::io::Error::other).and_then(|r| r);
    let addresses = addresses.map_err(|e| ServerError::bind(&shown, e))?;
    TcpListener::bind(addresses.as_slice()).await.map_err(|e| ServerError::bind(&shown, e))
}

/// Serves until `shutdown` completes, and then until the requests that run are over, but no longer than `drain`: what
/// still runs then is cancelled and ends with an error. Requests that arrive in that time are refused with 503, so that
/// routers and clients see why.
///
/// # Errors
/// A setting that cannot be used.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AppState>,
    shutdown: impl Future<Output = ()> + Send,
    drain: Duration,
) -> Result<(), ServerError> {
    let address = local_address(&listener)?;
    let router = router(state.clone(), address)?;
    let tls = tls::acceptor(&state.settings)?;
    if tls.is_some() {
        tracing::info!("connections need TLS");
    }
    let exporter = Exporter::start(&state.traces)?;
    tracing::info!(%address, "listening");
    let closing = watch::Sender::new(false);
    let most = state.settings.max_connections.get().min(Semaphore::MAX_PERMITS);
    let of_one = state.settings.max_connections_per_address.map_or((most / 2).max(1), |n| n.get());
    let (places, addresses) = (Arc::new(Semaphore::new(most)), Addresses::new(of_one));
    let mut door = Door { listener, router, tls, places, addresses, closing: closing.clone() };
    let mut connections = JoinSet::new();
    let stop = async {
        shutdown.await;
        state.start_draining();
        let requests = *state.in_flight.borrow();
        tracing::info!(requests, seconds = drain.as_secs_f64(), "shutting down");
        let idle = async |limit| {
            let mut in_flight = state.in_flight.subscribe();
            timeout(limit, in_flight.wait_for(|n| *n == 0)).await.is_ok()
        };
        if !idle(drain).await {
            tracing::warn!(requests = *state.in_flight.borrow(), "cancelling requests that still run");
            state.cancelled.send_replace(true);
            idle(LAST_WORDS).await;
        }
    };
    door.accept(&mut connections, stop).await;
    drop(door);
    closing.send_replace(true);
    let deadline = Instant::now() + LAST_WORDS;
    while let Ok(Some(_)) = timeout_at(deadline, connections.join_next()).await {}
    connections.shutdown().await;
    if let Some(exporter) = exporter {
        exporter.finish(LAST_WORDS).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// What an open connection takes up, in all and of its address.
type Place = (OwnedSemaphorePermit, Counted);

/// Where connections come in.
struct Door {
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    /// One for each connection that may be open.
    places: Arc<Semaphore>,
    addresses: Addresses,
    closing: watch::Sender<bool>,
}

impl Door {
    /// Accepts connections until `stop` completes.
    async fn accept(&mut self, connections: &mut JoinSet<()>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                Some(_) = connections.join_next() => {}
                accepted = self.next() => match accepted {
                    Ok((stream, place)) => {
                        let (router, tls, closing) = (self.router.clone(), self.tls.clone(), self.closing.subscribe());
                        connections.spawn(connection(stream, router, tls, closing, place));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn next(&self) -> std::io::Result<(TcpStream, Place)> {
        let place = self.places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        loop {
            let (stream, address) = self.listener.accept().await?;
            match self.addresses.admit(address.ip()) {
                Some(counted) => return Ok((stream, (place, counted))),
                // Closed without a word: an answer would have to wait for a request.
                None => tracing::debug!(%address, "too many connections of one address"),
            }
        }
    }
}

/// Serves one connection, and ends it after its current request once the server closes.
async fn connection(
    stream: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    closing: watch::Receiver<bool>,
    _place: Place,
) {
    // Tokens are sent as they come. Without it they only come later.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return requests(stream, router, closing).await };
    match timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, router, closing).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS connection"),
        Err(_) => tracing::debug!("no TLS connection in time"),
    }
}

async fn requests(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, mut closing: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // Headers that are a little too large still get an answer of ours.
    builder.max_headers(MAX_HEADER_LINES).max_buf_size(8 * MAX_HEADERS);
    let stream = Worded::new(Patient::new(stream, WRITE_TIMEOUT));
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let closed = async {
        // An error means that the server is gone.
        let _ = closing.wait_for(|c| *c).await;
    };
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = closed => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
