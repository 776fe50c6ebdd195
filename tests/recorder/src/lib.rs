//! A PKCS#11 module that forwards to a real one and writes down every call.
