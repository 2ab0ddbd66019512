use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Jobs that may wait for a worker, each with a request body in memory.
const MAX_WAITING: usize = 512;

/// Runs work that takes long for an asynchronous task, such as tokenizing, on threads of its own: as many jobs at a
/// time as there are processors, so that the engine is not crowded out.
#[derive(Debug)]
pub(crate) struct Workers {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    pub(crate) fn new() -> Workers {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Workers { permits: Arc::new(Semaphore::new(threads)), waiting: AtomicUsize::new(0) }
    }

    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            let message = "overloaded: too many requests are being read; try again later".into();
            return Err(ApiError::Overloaded { message, retry_after: Duration::ZERO });
        }
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|e| ApiError::Internal(e.to_string()))?;
        drop(place);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            job()
        });
        task.await.map_err(|e| {
            tracing::error!(error = %e, "a worker has panicked");
            ApiError::Internal("the request could not be processed".into())
        })?
    }
}
