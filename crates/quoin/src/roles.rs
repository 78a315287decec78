//! The roles' processes: logging, a runtime, the signals that end them, and the role's own `run`.

use crate::failure::Failure;
use crate::options::Logging;
use std::error::Error;
use std::path::Path;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// Runs a cluster manager until SIGTERM.
pub(crate) fn cluster_manager(
    config: quoin_cluster_manager::Config,
    logging: &Logging,
) -> Result<(), Failure> {
    let name = format!("manager-{}", config.id);
    prepare("cluster-manager", &name, &config.data_dir, logging)?;
    let mut runtime = Builder::new_multi_thread();
    // One: two would wake each other for every message.
    runtime.worker_threads(1).thread_name("manager");
    run(runtime, async |stop| quoin_cluster_manager::run(config, stop).await)
}

/// Runs a storage node until SIGTERM: one thread owns its state and sockets; those that wait for the disk it starts itself.
pub(crate) fn storage_node(config: quoin_storage_node::Config, logging: &Logging) -> Result<(), Failure> {
    prepare("storage-node", &config.name, &config.data_dir, logging)?;
    run(Builder::new_current_thread(), async |stop| quoin_storage_node::run(config, stop).await)
}

/// Runs a gateway until SIGTERM, on one thread.
pub(crate) fn gateway(config: quoin_gateway::Config, logging: &Logging) -> Result<(), Failure> {
    let sockets = quoin_disk::inherited::listening_sockets()
        .map_err(|error| Failure::io("take the sockets that the gateway was started with", &error))?;
    prepare("gateway", &config.id, &config.data_dir, logging)?;
    run(Builder::new_current_thread(), async |stop| quoin_gateway::run(config, sockets, stop).await)
}

/// Logging, and the data directory.
fn prepare(role: &str, name: &str, data_dir: &Path, logging: &Logging) -> Result<(), Failure> {
    quoin_service::logging::init(role, name, logging.format, logging.filter.as_deref()).map_err(|error| {
        Failure::bad_usage(format!("option `log` (or RUST_LOG): {error}"))
            .hint("write for example info, or info,quoin_store=debug")
    })?;
    std::fs::create_dir_all(data_dir).map_err(|error| {
        Failure::io(format_args!("make the data directory {}", data_dir.display()), &error)
            .hint("the user that runs this role must own `data_dir`")
    })
}

/// Runs a role to its end and logs how it ended.
fn run<E: Error>(
    mut builder: Builder,
    role: impl AsyncFnOnce(CancellationToken) -> Result<(), E>,
) -> Result<(), Failure> {
    let runtime = builder.enable_all().build().map_err(|error| Failure::io("start a runtime", &error))?;
    let result = runtime.block_on(async { role(quoin_service::shutdown::on_signal()).await });
    // Tasks that outlive the role (open streams of clients) do not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(error) => {
            let message = with_causes(&error);
            tracing::error!(error = message, "failed");
            Err(Failure::failed(message))
        }
    }
}

/// An error and what caused it, each cause once.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
