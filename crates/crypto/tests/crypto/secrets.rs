use std::fmt::{Debug, Display};

use kasbah_crypto::{
    Dek, PrivateKey, PrivateKeyParts, RsaParts,
    ec::{EcPrivateKey, WrapKey},
    envelope::RootKey,
    rsa::RsaPrivateKey,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_not_impl_any!(Dek: Clone, Debug, Display, PartialEq, AsRef<[u8]>);
assert_not_impl_any!(EcPrivateKey: Clone, Debug, Display, PartialEq);
assert_not_impl_any!(PrivateKey: Clone, Debug, Display, PartialEq);
assert_not_impl_any!(PrivateKeyParts: Clone, Debug, Display, PartialEq);
assert_not_impl_any!(RootKey: Clone, Debug, Display, PartialEq);
assert_not_impl_any!(RsaParts: Clone, Debug, Display, PartialEq);
assert_not_impl_any!(RsaPrivateKey: Clone, Debug, Display, PartialEq);
assert_not_impl_any!(WrapKey: Clone, Debug, Display, PartialEq, AsRef<[u8]>);

// They are shared by workers.
assert_impl_all!(Dek: Send, Sync);
assert_impl_all!(PrivateKey: Send, Sync);
assert_impl_all!(RootKey: Send, Sync);
assert_impl_all!(WrapKey: Send, Sync);
