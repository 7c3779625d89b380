//! Values that are refused, and how that is said: each message names the value.

use crate::helm::{self, SMALL};

/// Settings, and what the message has to contain.
const REFUSED: [(&[&str], &[&str]); 44] = [
    (&["replicaCount=3"], &["replicaCount"]),
    (&["image.tagg=x"], &["/image", "tagg"]),
    (&["config.lisen.address=x"], &["/config", "lisen"]),
    (&["config.listen.adress=0.0.0.0:1"], &["/config/listen", "adress"]),
    (&["config.stacks[0].mi_htttp=x"], &["/config/stacks/0", "mi_htttp"]),
    (&["config.limits.max_message=64KB"], &["/config/limits/max_message"]),
    (&["config.drain.timeout=20"], &["/config/drain/timeout", "got number, want string"]),
    (&["config.drain.timeout=soon"], &["/config/drain/timeout", "soon"]),
    (&["config.log.level=loud"], &["/config/log/level", "info"]),
    (&["config.stacks[0].mi=tcp:10.0.0.5:8080"], &["/config/stacks/0/mi", "udp"]),
    (&["config.log.format=xml"], &["/config/log/format", "text"]),
    (&["config.install=Main"], &["/config/install"]),
    (&["config.listen.insecure_open=maybe"], &["/config/listen/insecure_open"]),
    (&["config.leadership=raft"], &["/config/leadership", "kubernetes"]),
    (&["config.redis.password=secret"], &["/config/redis", "password"]),
    (&["redis.password=secret"], &["/redis", "password"]),
    (&["replicas=0"], &["/replicas"]),
    (&["replicas=many"], &["/replicas"]),
    (&["events.reach=nodePort"], &["/events/reach", "perPodService"]),
    (&["events.port=0"], &["/events/port"]),
    (&["service.type=ExternalName"], &["/service/type"]),
    (&["networkPolicy.clients[0].cidr=10.0.0.0/8"], &["/networkPolicy/clients/0", "cidr"]),
    (&["extraEnv[0].nam=x"], &["/extraEnv/0", "nam"]),
    (&["image.digest=sha256:123"], &["/image/digest"]),
    (&["extraEnv[0].name=CALLPLANE_DRAIN__TIMEOUT"], &["extraEnv", "CALLPLANE_DRAIN__TIMEOUT"]),
    (
        &["extraEnv[0].name=CALLPLANE_STACKS__0__EVENTS"],
        &["extraEnv", "CALLPLANE_STACKS__0__EVENTS"],
    ),
    (&["extraEnv[0].name=POD_NAME"], &["extraEnv", "POD_NAME"]),
    (&["redis.embedded.enabled=true"], &["redis.embedded.enabled", "config.redis"]),
    (&["config.redis.sentinels={a:26379}"], &["config.redis.address", "sentinels"]),
    (&["config.leadership=standalone"], &["config.leadership", "standalone"]),
    (&["config.listen.address=127.0.0.1:5059"], &["config.listen.address", "127.0.0.1"]),
    (&["config.admin.listen=[::1]:9090"], &["config.admin.listen"]),
    (&["config.stacks[0].events=udp:0.0.0.0:0"], &["config.stacks[0].events"]),
    (
        &["autoscaling.enabled=true", "keda.enabled=true", "keda.prometheus=http://p"],
        &["keda.enabled", "autoscaling.enabled"],
    ),
    (&["keda.enabled=true"], &["keda.prometheus"]),
    (&["autoscaling.enabled=true", "autoscaling.cpu=null"], &["autoscaling.cpu"]),
    (&["autoscaling.enabled=true", "autoscaling.minReplicas=20"], &["autoscaling.minReplicas"]),
    (&["ingress.enabled=true"], &["ingress.hosts"]),
    (&["httpRoute.enabled=true"], &["httpRoute.parentRefs"]),
    (&["redis.tls.existingSecret=x", "redis.tls.certKey=tls.crt"], &["redis.tls.certKey"]),
    (
        &["events.reach=perPodService", "events.perPodService.clusterIPs={10.96.0.9}"],
        &["events.perPodService.clusterIPs", "3"],
    ),
    (
        &["events.reach=perPodService", "events.perPodService.type=NodePort"],
        &["events.advertise", "NodePort"],
    ),
    (
        &["networkPolicy.enabled=true", "events.reach=hostNetwork", "simulatedStack.enabled=true"],
        &["networkPolicy.enabled", "hostNetwork"],
    ),
    (&["events.advertise=udp:x$(POD_INDEX):5065"], &["events.advertise", "POD_INDEX"]),
];

fn refused(sets: &[&str], wanted: &[&str]) {
    let output = helm::template(sets, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{sets:?} is taken");
    for part in wanted {
        assert!(said.contains(part), "{sets:?}: no `{part}` in: {said}");
    }
}

#[test]
fn values_that_can_not_be_meant_are_refused_by_their_names() {
    let test = "values_that_can_not_be_meant_are_refused_by_their_names";
    if !helm::are_here(test, &["helm"]) {
        return;
    }
    for (sets, wanted) in REFUSED {
        refused(&[&SMALL, sets].concat(), wanted);
    }
}

#[test]
fn what_has_to_be_said_is_asked_for() {
    if !helm::are_here("what_has_to_be_said_is_asked_for", &["helm"]) {
        return;
    }
    let [redis, stack] = SMALL;
    refused(&[redis], &["config.stacks", "simulatedStack.enabled"]);
    refused(&[stack], &["replicas", "config.redis.address", "redis.embedded.enabled"]);
    let by_lease = "config.leadership=kubernetes";
    refused(&[stack, "replicas=1", by_lease], &["config.leadership", "kubernetes"]);
    // One pod may be alone.
    helm::objects_with(&[stack, "replicas=1"], &[]);
}
