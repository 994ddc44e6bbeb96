//! The states of organizations, projects, calls and circuits, as the API and SQL name them.

use crate::domain::named_enum::named_enum;

named_enum! {
    /// The state of an organization.
    OrganizationStatus {
        /// Its calls are admitted.
        Active "Active",
        /// Its calls are refused.
        Inactive "Inactive",
        /// Its calls are refused and nothing about it can be changed.
        Closed "Closed",
    }

    /// The state of a project.
    ProjectStatus {
        /// Its calls are admitted.
        Active "Active",
        /// Its calls are refused; its records stay.
        Archived "Archived",
    }

    /// What happens to a call whose client disconnects.
    OnDisconnect {
        /// The request to the upstream is cancelled.
        Cancel "cancel",
        /// The response is read to its end and charged in full.
        Drain "drain",
    }

    /// How a call ended.
    Outcome {
        /// The response reached its end.
        Completed "Completed",
        /// The gateway refused the call.
        Refused "Refused",
        /// The upstream failed or its response broke off.
        Failed "Failed",
        /// The client disconnected.
        Cancelled "Cancelled",
    }

    /// The state of an upstream's circuit breaker.
    CircuitState {
        /// The upstream is used as usual.
        Closed "Closed",
        /// One probe is in flight or may be sent.
        HalfOpen "HalfOpen",
        /// Other upstreams are preferred.
        Open "Open",
    }
}
