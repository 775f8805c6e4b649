use burn::backend::ir::BackendIr;
use burn_fused::FusedOps;
use burn_nf4::BlockwiseOps;
use burn_router::CustomOpRegistry;

/// Registers the operations of the layers, [`BlockwiseOps`] and [`FusedOps`], with a server of remote devices or with the
/// interpreter of a captured graph, for the backend `B` that computes there.
///
/// ```no_run
/// # #[cfg(all(feature = "flex", feature = "remote-server", feature = "remote-websocket"))]
/// # fn main() -> Result<(), burn::server::ServeError> {
/// use burn::backend::Flex;
/// use burn::server::{CustomOpRegistry, RemoteServer, WebSocketTransport};
/// use burn::tensor::Device;
///
/// let mut operations = CustomOpRegistry::<Flex>::new();
/// burn_qlora::register_ops(&mut operations);
/// RemoteServer::new([Device::flex()])
///     .with_custom_ops(operations)
///     .serve(WebSocketTransport::new(3000))
/// # }
/// # #[cfg(not(all(feature = "flex", feature = "remote-server", feature = "remote-websocket")))]
/// # fn main() {}
/// ```
///
/// The feature of `B` is on in the server's build of these crates, and client and server have one version of them.
pub fn register_ops<B: BackendIr + BlockwiseOps + FusedOps>(registry: &mut CustomOpRegistry<B>) {
    burn_nf4::register_blockwise_ops(registry);
    burn_fused::register_fused_ops(registry);
}
