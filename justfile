# The tasks of this repository; each is one command that can be typed without `just` as well.

# Lists the tasks.
default:
    @just --list

# Writes the price catalog anew from two sheets of facts, as of a day.
prices genai litellm as_of:
    python3 -B config/prices/generate.py {{ genai }} {{ litellm }} --as-of {{ as_of }}

# Starts the gateway with a built-in provider, a funded organization and a key.
demo *flags:
    cargo run --release -- demo {{ flags }}

# Runs every test, or those that the arguments name.
test *filter:
    tests/run {{ filter }}

# Acts ten thousand seeded histories on a node in virtual time; `METEOR_SEED=7` tells of one.
simulation seeds="10000":
    METEOR_SEEDS={{ seeds }} cargo test --test simulation -- --nocapture

# Has many workers ask a million times at each of many limits.
admits asks="1000000":
    METEOR_ADMITS={{ asks }} cargo test --lib accounting::tests::concurrent_workers -- --nocapture

# Tries thousands of schedules of threads at the locks of the books.
interleavings:
    cargo test --features interleave --lib accounting::tests::interleave

# Runs what must hold before a change lands.
ci:
    .ci/run

# Looks at the books of a gateway under load, over and over.
verify-under-load seconds="120":
    VERIFY_SECONDS={{ seconds }} tests/run under_load_no_look

# Changes the code that decides about money, place by place; tests must notice.
mutants *folders:
    tests/mutants {{ folders }}

# Looks for bytes that break the readers of what strangers send.
fuzz *seconds_and_targets:
    fuzz/run {{ seconds_and_targets }}

# Measures the gateway beside a bare proxy.
bench *flags:
    cargo bench {{ flags }}

# Checks layers, purity, names, file sizes and the map.
tidy:
    cargo test --quiet --test tidy

fmt:
    cargo fmt

lint:
    cargo clippy --all-targets -- -D warnings

# Kills a gateway under load, so many times, and reconciles it after each: about a quarter of an hour.
kills times="1000":
    METEOR_KILLS={{ times }} cargo test --test gateway kills:: -- --nocapture

# Has a gateway die at so many passings of every crash point: about 4 minutes.
points passings="20":
    METEOR_POINTS={{ passings }} cargo test --test gateway points:: -- --nocapture

# Cuts the power under load, again and again: what a client saw the end of must be there.
power cycles="200":
    METEOR_POWER={{ cycles }} cargo test --test gateway power:: -- --nocapture

# Takes open streams over the end of a day and a month, and steps the clock.
calendar streams="1000":
    METEOR_STREAMS={{ streams }} cargo test --test gateway calendar::

# Kills one of two providers every second under load; no client hears of it before the first byte.
failover seconds="60":
    METEOR_FAILOVER={{ seconds }} cargo test --test gateway failover:: -- --nocapture

# Counts instructions, allocations and system calls of a call, and compares them with the record.
cost:
    tests/run cost::

# Records what a call costs now as the figures that later changes are held to.
record-cost:
    METEOR_RECORD_COST=1 tests/run cost::
