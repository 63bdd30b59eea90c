//! A controller of one's own beside the built-in ones: it copies the Secrets of one namespace into every namespace that asks.
//!
//! `cargo run -p wharf-examples --example custom-controller`; `cargo test -p wharf-examples --example custom-controller`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use serde_json::json;
use wharf::Cluster;
use wharf::core::api::{ApiExt, DeleteParams};
use wharf::core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf::core::object::ObjectRef;

/// Where the Secrets are that others get.
const SOURCE: &str = "shared-secrets";
/// On a namespace: `true` if it wants them.
const WANTS: &str = "example.com/wants-shared-secrets";
/// On a copy, so that nobody else's Secret is ever touched.
const COPY: &str = "example.com/copied-from";

#[derive(Debug)]
struct SharedSecrets;

/// What is to be done in one namespace.
#[derive(Debug, PartialEq)]
enum Change {
    Create(Secret),
    Update(Secret),
    Delete(String),
}

/// Decides: a function of what was read, and of nothing else.
fn decide(namespace: &str, wanted: bool, sources: &[Arc<Secret>], present: &[Arc<Secret>]) -> Vec<Change> {
    let is_copy = |secret: &Secret| secret.labels().get(COPY).is_some_and(|from| from == SOURCE);
    let mut changes = Vec::new();
    for source in sources.iter().filter(|_| wanted) {
        match present.iter().find(|s| s.name_any() == source.name_any()) {
            None => {
                let metadata = ObjectMeta {
                    name: source.metadata.name.clone(),
                    namespace: Some(namespace.into()),
                    labels: Some([(COPY.to_string(), SOURCE.to_string())].into()),
                    ..ObjectMeta::default()
                };
                changes.push(Change::Create(Secret { metadata, ..(**source).clone() }));
            }
            Some(copy) if is_copy(copy) && copy.data != source.data => {
                changes.push(Change::Update(Secret { data: source.data.clone(), ..(**copy).clone() }));
            }
            // As it should be, or somebody's own.
            Some(_) => {}
        }
    }
    let stale = |copy: &&Arc<Secret>| is_copy(copy) && !(wanted && sources.iter().any(|s| s.name_any() == copy.name_any()));
    changes.extend(present.iter().filter(stale).map(|copy| Change::Delete(copy.name_any())));
    changes
}

#[async_trait]
impl Controller for SharedSecrets {
    fn name(&self) -> &'static str {
        "shared-secrets"
    }

    fn watches(&self) -> Vec<Watch> {
        let namespace = |name: &str| ObjectRef::new("", name);
        vec![
            // The keys are namespaces.
            Watch::primary::<Namespace>(),
            // A Secret concerns its own namespace, a shared one all of them.
            Watch::mapped::<Secret>(move |ctx, change| match &*change.latest().key().namespace {
                SOURCE => ctx.informers.of::<Namespace>().list().iter().map(|n| namespace(&n.name_any())).collect(),
                other => vec![namespace(other)],
            }),
        ]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(namespace) = ctx.informers.of::<Namespace>().get(key) else { return Ok(Action::Done) };
        if namespace.metadata.deletion_timestamp.is_some() || &*key.name == SOURCE {
            return Ok(Action::Done);
        }
        let secrets = ctx.informers.of::<Secret>();
        let wanted = namespace.labels().get(WANTS).is_some_and(|wants| wants == "true");
        for change in decide(&key.name, wanted, &secrets.list_in(SOURCE), &secrets.list_in(&key.name)) {
            match change {
                // What was read may be behind: then the call is refused, and the key is tried again with what is true by then.
                Change::Create(secret) => drop(ctx.api.create(&secret).await?),
                Change::Update(secret) => drop(ctx.api.update(&secret).await?),
                Change::Delete(name) => {
                    ctx.api.delete::<Secret>(&ObjectRef::new(key.name.clone(), name), DeleteParams::default()).await?;
                }
            }
        }
        Ok(Action::Done)
    }
}

/// A namespace with labels, or another set of labels for it.
async fn namespace(cluster: &Cluster, name: &str, wants: Option<&str>) -> Result<(), kube::Error> {
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {WANTS: wants}}});
    if namespaces.get_opt(name).await?.is_none() {
        let plain = json!({"metadata": {"name": name}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(plain).map_err(kube::Error::SerdeError)?).await?;
    }
    namespaces.patch(name, &PatchParams::default(), &Patch::Merge(made)).await.map(drop)
}

async fn start() -> Result<Cluster, Box<dyn std::error::Error>> {
    let cluster = Cluster::builder().controller(Arc::new(SharedSecrets)).start().await?;
    namespace(&cluster, SOURCE, None).await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), SOURCE);
    let secret = json!({"metadata": {"name": "registry"}, "stringData": {"token": "open sesame"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    Ok(cluster)
}

/// Waits until a namespace has the token, or has it no more.
async fn token(cluster: &Cluster, namespace: &str, expected: Option<&str>) -> Result<(), kube::runtime::wait::Error> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), namespace);
    let token = |secret: &Secret| -> Option<String> {
        let data: &BTreeMap<_, _> = secret.data.as_ref()?;
        String::from_utf8(data.get("token")?.0.clone()).ok()
    };
    await_condition(secrets, "registry", |secret: Option<&Secret>| secret.and_then(token).as_deref() == expected).await.map(drop)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = start().await?;
    namespace(&cluster, "team-a", Some("true")).await?;
    token(&cluster, "team-a", Some("open sesame")).await?;
    println!("team-a has its copy");
    namespace(&cluster, "team-a", None).await?;
    token(&cluster, "team-a", None).await?;
    println!("and wants it no more");
    cluster.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, copy: bool, data: &str) -> Arc<Secret> {
        let labels = if copy { json!({COPY: SOURCE}) } else { json!({}) };
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "data": {"k": data}})).unwrap())
    }

    #[test]
    fn decides_by_what_it_sees() {
        let sources = [secret("s", false, "bmV3")];
        let words = |wanted, present: &[Arc<Secret>]| -> Vec<String> {
            let changes = decide("ns", wanted, &sources, present);
            let word = |change: &Change| match change {
                Change::Create(s) => format!("create {}", s.name_any()),
                Change::Update(s) => format!("update {}", s.name_any()),
                Change::Delete(name) => format!("delete {name}"),
            };
            changes.iter().map(word).collect()
        };
        assert_eq!(words(true, &[]), ["create s"]);
        assert_eq!(words(true, &[secret("s", true, "bmV3")]), [""; 0]);
        assert_eq!(words(true, &[secret("s", true, "b2xk")]), ["update s"]);
        assert_eq!(words(true, &[secret("s", false, "b2xk")]), [""; 0], "somebody's own stays");
        assert_eq!(words(true, &[secret("s", true, "bmV3"), secret("gone", true, "")]), ["delete gone"]);
        assert_eq!(words(false, &[secret("s", true, "bmV3"), secret("own", false, "")]), ["delete s"]);
    }

    #[tokio::test]
    async fn copies_come_heal_and_go() {
        let cluster = start().await.unwrap();
        namespace(&cluster, "team-a", Some("true")).await.unwrap();
        token(&cluster, "team-a", Some("open sesame")).await.unwrap();
        // The source changes.
        let sources: Api<Secret> = Api::namespaced(cluster.client(), SOURCE);
        let patch = Patch::Merge(json!({"stringData": {"token": "changed"}}));
        sources.patch("registry", &PatchParams::default(), &patch).await.unwrap();
        token(&cluster, "team-a", Some("changed")).await.unwrap();
        // Somebody deletes the copy.
        let copies: Api<Secret> = Api::namespaced(cluster.client(), "team-a");
        let first = copies.get("registry").await.unwrap().uid();
        copies.delete("registry", &Default::default()).await.unwrap();
        let healed = |secret: Option<&Secret>| secret.is_some_and(|s| s.uid() != first);
        await_condition(copies, "registry", healed).await.unwrap();
        // The namespace wants them no more.
        namespace(&cluster, "team-a", None).await.unwrap();
        token(&cluster, "team-a", None).await.unwrap();
        cluster.shutdown().await;
    }
}
