//! Services come, go, and do not mix.

use wharf_core::proxy::ServicePort;
use wharf_core::runtime::Protocol;

use super::kit::{apply, cluster, expect, expect_pods, ok, service, world};
use super::{Answer, ProxyHarness, Sender};
use crate::{CaseResult, ensure, ensure_eq};

pub(super) async fn is_read_back(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let (one, none) = (service(&world, 1, &[0, 2]), service(&world, 2, &[]));
    apply(&world, 1, vec![one.clone(), none.clone()]).await?;
    let observed = ok(world.proxy().observe().await, "observe")?;
    let found: Vec<_> = observed.services.into_iter().map(|s| (s.id, s.endpoints)).collect();
    let wanted = vec![(one.id(), one.endpoints.iter().map(|e| e.address()).collect()), (none.id(), vec![])];
    ensure_eq!(found, wanted, "services that observe returned");
    Ok(())
}

pub(super) async fn from_everywhere(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[1])]).await?;
    for from in [Sender::Outside, Sender::Node, Sender::Pod(0), Sender::Pod(2)] {
        expect_pods(&world, from, cluster(1), &[1]).await?;
    }
    Ok(())
}

pub(super) async fn two_do_not_mix(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0]), service(&world, 2, &[1, 2])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await?;
    expect_pods(&world, Sender::Outside, cluster(2), &[1, 2]).await
}

pub(super) async fn removed_is_silent(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0]), service(&world, 2, &[1])]).await?;
    apply(&world, 2, vec![service(&world, 2, &[1])]).await?;
    let answer = world.ask(Sender::Outside, cluster(1), Protocol::Tcp).await;
    ensure!(!matches!(answer, Answer::Pod(..)), "a removed service was answered: {answer:?}");
    ensure_eq!(ok(world.proxy().observe().await, "observe")?.services.len(), 1, "services that observe returned");
    expect_pods(&world, Sender::Outside, cluster(2), &[1]).await
}

pub(super) async fn udp(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![ServicePort { protocol: Protocol::Udp, ..service(&world, 1, &[2]) }]).await?;
    let answer = world.ask(Sender::Outside, cluster(1), Protocol::Udp).await;
    ensure!(matches!(answer, Answer::Pod(2, _)), "over UDP: {answer:?}");
    let answer = world.ask(Sender::Outside, cluster(1), Protocol::Tcp).await;
    ensure!(!matches!(answer, Answer::Pod(..)), "a UDP port was answered over TCP: {answer:?}");
    Ok(())
}

pub(super) async fn changes_touch_little(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let many =
        |first: &[usize]| (1..=20).map(|octet| service(&world, octet, if octet == 1 { first } else { &[0, 1, 2] })).collect::<Vec<_>>();
    let all = apply(&world, 1, many(&[0, 1, 2])).await?;
    let one = apply(&world, 2, many(&[0])).await?;
    ensure!(one.changed(), "a removed endpoint changed nothing");
    ensure!(
        (one.written + one.removed) * 2 < all.written,
        "one endpoint of twenty services changed, but {} and {} of {} units were touched",
        one.written,
        one.removed,
        all.written
    );
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await
}

pub(super) async fn empty_state(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[])]).await?;
    expect(&world, Sender::Outside, cluster(1), Answer::Refused).await?;
    apply(&world, 2, vec![]).await?;
    ensure_eq!(ok(world.proxy().observe().await, "observe")?.services.len(), 0, "services after an empty state");
    Ok(())
}
