//! TLS, client certificates, users and their roles, on a real etcd.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, Permission};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use wharf_conformance::system::etcd::{Etcd, EtcdError, EtcdServerTls};
use wharf_core::clock::SystemClock;
use wharf_core::store::{Key, ObjectStore, ResourceId, Scope, StoreError, Transaction, WatchItem};
use wharf_core::testing::omit;
use wharf_store_etcd::{EtcdConnectError, EtcdFault, EtcdOptions, EtcdStore, EtcdTls, EtcdUser};

struct Ca {
    pem: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem().into_bytes(), issuer: Issuer::new(params, key) }
    }
    /// Certificate and key.
    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap().pem().into_bytes(), key.serialize_pem().into_bytes())
    }
    fn client(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        Some(self.issue("client", ExtendedKeyUsagePurpose::ClientAuth))
    }
}

fn unless_missing(test: &str, started: Result<Etcd, EtcdError>) -> Option<Etcd> {
    match started {
        Ok(etcd) => Some(etcd),
        Err(error @ EtcdError::Missing { .. }) => {
            omit(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn put(name: &str) -> Transaction {
    Transaction::create(Key::new(ResourceId::new("", "pods"), "default", name), Bytes::from_static(b"x"))
}
async fn connect(options: EtcdOptions) -> Result<EtcdStore, EtcdConnectError> {
    EtcdStore::connect(options, SystemClock::shared()).await
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides_and_each_mistake_says_what_to_do() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (certificate, key) = ca.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
    let server = EtcdServerTls { certificate, key, client_ca: Some(ca.pem.clone()) };
    let Some(etcd) = unless_missing("etcd.tls", Etcd::start_tls(&server).await) else { return };
    let with = |ca: &Ca, identity, server_name: Option<&str>| {
        let tls = EtcdTls { ca: ca.pem.clone(), identity, server_name: server_name.map(str::to_owned) };
        EtcdOptions { tls: Some(tls), ..EtcdOptions::new([etcd.endpoint()]) }
    };
    let store = connect(with(&ca, ca.client(), None)).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    let committed = store.commit(put("a")).await.unwrap();
    let item = watch.next().await.unwrap().unwrap();
    assert!(matches!(item, WatchItem::Commit { revision, .. } if revision == committed), "{item:?}");
    let plain = EtcdOptions::new([etcd.endpoint().replace("https", "http")]);
    let mistakes = [
        ("another authority", with(&other, ca.client(), None), "the authority (`tls.ca`)"),
        ("no client certificate", with(&ca, None, None), "client certificate (`tls.identity`)"),
        ("a client certificate of another", with(&ca, other.client(), None), "client certificate (`tls.identity`)"),
        ("another name", with(&ca, ca.client(), Some("etcd.example")), "`tls.server_name`"),
        ("no TLS", plain, "http or https"),
    ];
    for (mistake, options, advice) in mistakes {
        let error = connect(options).await.unwrap_err();
        println!("{mistake}: {error}");
        assert!(matches!(error, EtcdConnectError::Unreachable { .. }), "{mistake}: {error}");
        assert!(error.to_string().contains(advice), "{mistake}: {error}");
    }
    // It is still there for who is allowed, after a restart too.
    etcd.start_again().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), committed);
}

#[tokio::test]
async fn roles_bound_what_a_user_may_do_and_tokens_that_end_are_renewed() {
    let started = Etcd::start_with(&["--auth-token-ttl=1"]).await;
    let Some(etcd) = unless_missing("etcd.auth", started) else { return };
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let mut auth = admin.auth_client();
    for (role, prefix) in [("wharf", "/wharf!"), ("other", "/other!")] {
        auth.role_add(role).await.unwrap();
        auth.role_grant_permission(role, Permission::read_write(prefix).with_prefix()).await.unwrap();
        auth.user_add(role, "secret", None).await.unwrap();
        auth.user_grant_role(role, role).await.unwrap();
    }
    auth.user_add("root", "secret", None).await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.auth_enable().await.unwrap();
    let user = |name: &str, password: &str| {
        let user = Some(EtcdUser { name: name.into(), password: password.into() });
        EtcdOptions { user, ..EtcdOptions::new([etcd.endpoint()]) }
    };
    let refused = [
        ("no user", EtcdOptions::new([etcd.endpoint()])),
        ("a wrong password", user("wharf", "wrong")),
        ("nobody", user("nobody", "secret")),
        ("another role", user("other", "secret")),
    ];
    for (mistake, options) in refused {
        let error = connect(options).await.unwrap_err();
        println!("{mistake}: {error}");
        assert!(matches!(error, EtcdConnectError::Denied { .. }), "{mistake}: {error}");
        assert!(error.to_string().contains("name a user that etcd knows"), "{mistake}: {error}");
    }
    let store = connect(user("wharf", "secret")).await.unwrap();
    let first = store.commit(put("a")).await.unwrap();
    let mut watch = store.watch(&Scope::All, first).await.unwrap();
    // A client that does not renew its token tells when that of the store, which is older, has ended.
    let plain = Client::connect([etcd.endpoint()], Some(ConnectOptions::new().with_user("wharf", "secret"))).await.unwrap();
    let ended = async {
        loop {
            // Asking renews it, so less often than it lasts.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            if plain.kv_client().get("/wharf!a", None).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
    let second = store.commit(put("b").with_ttl(Duration::from_secs(3600))).await.unwrap();
    assert!(second > first);
    let item = watch.next().await.unwrap().unwrap();
    assert!(matches!(item, WatchItem::Commit { revision, .. } if revision == second), "{item:?}");
    // Many at once after a restart, which forgets all tokens.
    etcd.start_again().await.unwrap();
    let answers = futures::future::join_all((0..20).map(|n| {
        let store = store.clone();
        async move { store.commit(put(&format!("c{n}"))).await }
    }));
    for answer in answers.await {
        answer.unwrap();
    }
    // A right that is taken away is told, and what was not done is known not to be.
    let root = Client::connect([etcd.endpoint()], Some(ConnectOptions::new().with_user("root", "secret"))).await.unwrap();
    root.auth_client().user_revoke_role("wharf", "wharf").await.unwrap();
    let error = store.commit(put("d")).await.unwrap_err();
    println!("a role taken away: {error}");
    let StoreError::Backend { source, .. } = error else { panic!("{error}") };
    assert!(source.downcast_ref::<EtcdFault>().unwrap().to_string().contains("grant the user's role"), "{source}");
}
