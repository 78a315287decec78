//! From messages to words and back. A message is untrusted: every conversion inward can fail.

use crate::v1;
use quoin_types::Durability;

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Flush => v1::Durability::Flush,
            Durability::WriteThrough => v1::Durability::WriteThrough,
        }
    }
}

impl v1::Durability {
    /// The durability meant; the default where none was said.
    pub fn or_default(self) -> Durability {
        match self {
            v1::Durability::WriteThrough => Durability::WriteThrough,
            v1::Durability::Flush | v1::Durability::Unspecified => Durability::Flush,
        }
    }
}
