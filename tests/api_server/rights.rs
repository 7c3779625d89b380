//! What a service account may do.

use super::ApiServer;

impl ApiServer {
    /// Lets a service account of this name contend for these Leases and tell of it, and nothing else: the
    /// rights that the chart gives.
    pub fn let_lead(&self, namespace: &str, account: &str, leases: &[String]) {
        let leases = leases.join(", ");
        self.apply(&format!(
            "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {account}, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {account}, namespace: {namespace}}}
rules:
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{leases}]
  verbs: [get, update, create, watch, list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {account}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {account}}}
subjects: [{{kind: ServiceAccount, namespace: {namespace}, name: {account}}}]
"
        ));
    }
}
