//! Ctrl-C and SIGTERM during work that has to be taken back: the first ends the work in order, the
//! second ends the process at once.

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{CliError, Result};

/// Where interruptible work runs. Dropping it waits for reads and writes under way.
#[derive(Debug)]
pub(super) struct Interruptible {
    runtime: Runtime,
    asked: watch::Receiver<bool>,
}

impl Interruptible {
    /// From here on signals are ours: call it before something is begun that must be taken back.
    pub(super) fn new() -> Result<Self> {
        let failed = |e| CliError::io("the runtime cannot be started", &e);
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .worker_threads(2)
            .build()
            .map_err(failed)?;
        let (ask, asked) = watch::channel(false);
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let on = |kind| signal(kind).map_err(failed);
            (on(SignalKind::interrupt())?, on(SignalKind::terminate())?)
        };
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = interrupt.recv() => {}
                    Some(()) = terminate.recv() => {}
                    else => return,
                }
                if ask.send_replace(true) {
                    std::process::exit(130);
                }
            }
        });
        Ok(Self { runtime, asked })
    }

    /// The work's result, or exit code 130 as soon as somebody asks for the end.
    pub(super) fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut asked = self.asked.clone();
        let asked = async move {
            if asked.wait_for(|asked| *asked).await.is_err() {
                // Nobody listens any more, so nobody can ask.
                std::future::pending::<()>().await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = asked => Err(CliError::new(130, "interrupted")),
                done = work => done,
            }
        })
    }
}

/// A blocking call, while others go on.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|e| CliError::new(1, format!("a call ended early: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_with_its_result_or_with_130() {
        let work = Interruptible::new().unwrap();
        assert_eq!(work.run(async { Ok(7) }).unwrap(), 7);
        let (ask, asked) = watch::channel(false);
        let work = Interruptible { asked, ..work };
        ask.send_replace(true);
        let e = work
            .run(async {
                std::future::pending::<()>().await;
                Ok(())
            })
            .unwrap_err();
        assert_eq!(e.code, 130);
        drop(ask);
    }
}
