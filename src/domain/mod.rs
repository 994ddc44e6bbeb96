//! Pure: values in, decisions out. The standard library only; no clock, no I/O, no async.

