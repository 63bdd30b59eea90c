//! Connections while rules change.

use wharf_core::runtime::Protocol;

use super::kit::{apply, cluster, expect_pods, needs, proxy, service, state, world};
use super::{Answer, ProxyHarness, Sender};
use crate::{CaseResult, ensure, ensure_eq, fail};

pub(super) async fn open_ones_go_on(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, keeps_connections);
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    let Some(mut open) = world.open(Sender::Outside, cluster(1)).await else { return fail("no connection could be opened") };
    ensure_eq!(open.pod(), 0, "pod at the other end");
    ensure!(open.echo().await, "a connection does not work at all");
    apply(&world, 2, vec![service(&world, 1, &[1])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[1]).await?;
    ensure!(open.echo().await, "an open connection was cut when its endpoint was no longer chosen");
    Ok(())
}

pub(super) async fn none_is_lost_meanwhile(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, atomic);
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    let proxy = proxy(&world);
    let changes = async {
        for generation in 2..10u64 {
            let pods: &[usize] = [&[1][..], &[1, 2], &[0, 2], &[0]][generation as usize % 4];
            if let Err(error) = proxy.apply(&state(&world, generation, vec![service(&world, 1, pods)])).await {
                return fail(format!("apply failed: {error}"));
            }
        }
        Ok(())
    };
    let mut changes = std::pin::pin!(changes);
    loop {
        tokio::select! {
            done = &mut changes => return done,
            answer = world.ask(Sender::Outside, cluster(1), Protocol::Tcp) => {
                ensure!(matches!(answer, Answer::Pod(..)), "a connection was lost while rules changed: {answer:?}");
            }
        }
    }
}
