//! `named_enum!`: closed sets of values, each with the one name that the API and SQL use.

/// Defines enums whose variants have a fixed name, with `ALL`, `NAMES`, `name()` and `parse()`.
macro_rules! named_enum {
    ($($(#[$meta:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident $name:literal,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$doc])* $variant,)* }

        impl $type {
            /// All values, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The names of all values, in the same order.
            pub const NAMES: &[&str] = &[$($name,)*];

            /// Returns the name in the API and in SQL.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the value with this name; names are case-sensitive.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }
    )*};
}

pub(crate) use named_enum;
