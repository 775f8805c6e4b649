use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_io_timeout::TimeoutStream;

/// The most connections at the same time. Others wait to be taken up.
const MOST_CONNECTIONS: usize = 512;
/// The longest that a connection may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a client may take no byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest that requests are waited for once the server stops.
const GRACE: Duration = Duration::from_secs(30);
/// How long it waits where the system has no connection to give, as without free file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A server that has its address and takes no connection yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens at an address.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let bind = || -> std::io::Result<TcpListener> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().with_context(|| format!("listen at {address}"))?;
        Ok(Self { listener })
    }

    /// Returns the address, with the port that it got.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("the server's address")
    }

    /// Serves until `stop` says so, and then until the requests that have come are answered, for a while at most.
    ///
    /// # Errors
    /// The system refuses what it takes.
    pub fn run(self, router: Router, stop: oneshot::Receiver<()>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(2)
            .build()
            .context("start the server")?;
        let served = runtime.block_on(self.serve(router, stop));
        // What still runs is of connections that had their time.
        runtime.shutdown_background();
        served
    }

    async fn serve(self, router: Router, mut stop: oneshot::Receiver<()>) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener).context("listen")?;
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        loop {
            let next = pin!(next(&listener, &room));
            match select(next, &mut stop).await {
                Either::Left((Ok((stream, place)), _)) => {
                    let connection = serve_connection(stream, router.clone(), &graceful);
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Either::Left((Err(_), _)) => tokio::time::sleep(PAUSE).await,
                Either::Right(_) => break,
            }
        }
        drop((listener, router));
        // Those that are not done by then are cut off.
        let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
        Ok(())
    }
}

/// Waits for the next connection that there is room for.
async fn next(
    listener: &tokio::net::TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await;
    let place = place.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Tokens are small, and each is to be seen at once.
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

/// Serves a connection to its end. A client that errs or goes away ends its own.
fn serve_connection(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
    let connection = graceful.watch(connection);
    async move {
        let _ = connection.await;
    }
}
