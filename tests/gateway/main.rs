//! The gateway seen from outside: the real binary, real sockets, a provider that misbehaves.
//!
//! Nothing here names the crate under test; what it must do is written down a second time, in the
//! fake provider (`upstream`, and a file for what each dialect says), the price oracle (`price`), the
//! books (`tenant`) and what passes unmodified (`exchange`).
#![expect(
    clippy::disallowed_methods,
    reason = "tests stand outside the house: they read clocks and start tasks of their own"
)]

// What the topics are written with.
mod wait;
mod json;
mod client;
mod upstream;
mod wire;
mod openai;
mod anthropic;
mod gemini;
mod price;
mod process;
mod callgrind;
mod gateway;
mod tenant;
mod served;
mod shim;
mod slow;
mod told;
mod media;
mod storm;
mod stage;
mod rehearsal;
mod crowd;
mod site;
mod books;
mod reconcile;
mod exchange;
mod replay;
mod corpus;
// One topic a file.
mod admin;
mod audio;
mod beside;
mod calendar;
mod catalog;
mod changes;
mod coded;
mod coding;
mod cost;
mod crash;
mod crashes;
mod disk;
mod dialects;
mod edges;
mod edits;
mod endings;
mod failover;
mod faults;
mod framing;
mod hidden;
mod holds;
mod hostile;
mod images;
mod kills;
mod leave;
mod leaving;
mod life;
mod limits;
mod lines;
mod long;
mod misbehaviours;
mod misbehaving;
mod near;
mod once;
mod overlay;
mod oracle;
mod points;
mod queue;
mod panics;
mod parallel;
mod power;
mod quotas;
mod reading_on;
mod recorded;
mod refunds;
mod responses;
mod refusals;
mod routes;
mod routing;
mod sdk;
mod secrets;
mod serve;
mod slots;
mod stalled;
mod state;
mod stream;
mod streams;
mod tls;
mod upstreams;
mod verify;
mod waiting;
mod written;
