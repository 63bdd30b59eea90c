//! Watch.

use std::sync::Arc;

use etcd_client::proto::{PbWatchRequest, PbWatchResponse, PbWatchService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::watch::MAX_WAITING;
use crate::{Shared, watch};

pub(crate) struct WatchService {
    pub(crate) shared: Arc<Shared>,
    /// Ends the streams.
    pub(crate) stopped: CancellationToken,
}

#[tonic::async_trait]
impl PbWatchService for WatchService {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (send, receive) = mpsc::channel(MAX_WAITING);
        tokio::spawn(watch::serve(self.shared.clone(), request.into_inner(), send, self.stopped.clone()));
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}
