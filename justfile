# The tasks of this repository. Each is one command, which also works without `just`.

# Lists the tasks.
default:
    @just --list

# Generates the price list from two public sheets, as of a date.
prices genai litellm as_of:
    python3 -B config/prices/generate.py {{ genai }} {{ litellm }} --as-of {{ as_of }}

# Starts the gateway with a built-in provider, a funded organization and a key.
demo *flags:
    cargo run --release -- demo {{ flags }}

# Runs all tests, or those that match the arguments.
test *filter:
    tests/run {{ filter }}

# Runs seeded histories on a node in virtual time; `METEOR_SEED=7` repeats one.
simulation seeds="10000":
    METEOR_SEEDS={{ seeds }} cargo test --test simulation -- --nocapture

# Has many workers request admission a million times at each of many limits.
admits requests="1000000":
    METEOR_ADMITS={{ requests }} cargo test --lib accounting::tests::concurrent_workers -- --nocapture

# Tries thousands of thread schedules at the locks of the live state.
interleavings:
    cargo test --features interleave --lib accounting::tests::interleave

# Runs all checks that must pass before a change lands.
ci:
    .ci/run

# Verifies the ledger of a gateway under load, repeatedly.
verify-under-load seconds="120":
    VERIFY_SECONDS={{ seconds }} tests/run verification_under_load

# Mutates the code that decides about money; tests must detect each mutant.
mutants *folders:
    tests/mutants {{ folders }}

# Fuzzes the parsers of untrusted input.
fuzz *seconds_and_targets:
    fuzz/run {{ seconds_and_targets }}

# Measures CPU per request beside nginx and a bare proxy.
bench *flags:
    cargo bench {{ flags }}

# Checks layers, purity, names, file sizes, glossary and messages.
tidy:
    cargo test --quiet --test tidy

fmt:
    cargo fmt

lint:
    cargo clippy --all-targets -- -D warnings

# Kills a gateway under load and reconciles the ledger after each kill: about 15 minutes.
kills times="1000":
    METEOR_KILLS={{ times }} cargo test --test gateway kill_9:: -- --nocapture

# Kills a gateway at every crash point: about 4 minutes.
points passings="20":
    METEOR_POINTS={{ passings }} cargo test --test gateway crash_points:: -- --nocapture

# Simulates power losses under load: every response that a client received must be charged.
power cycles="200":
    METEOR_POWER={{ cycles }} cargo test --test gateway power_loss:: -- --nocapture

# Runs open streams across the end of a day and a month, and steps the clock.
calendar streams="1000":
    METEOR_STREAMS={{ streams }} cargo test --test gateway calendar::

# Kills one of two providers every second under load: no client notices before the first byte.
failover seconds="60":
    METEOR_FAILOVER={{ seconds }} cargo test --test gateway failover:: -- --nocapture

# Counts instructions, allocations and system calls of a call, and compares them with the record.
cost:
    tests/run cost::

# Records what a call costs now as the figures that later changes are held to.
record-cost:
    METEOR_RECORD_COST=1 tests/run cost::
