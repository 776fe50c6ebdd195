"""Asks a KAS over gRPC with messages that nobody here wrote; prints what came of it as JSON.

usage: grpc_client.py URL TOKEN
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from otdf_python_proto.kas import kas_pb2

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)


def segment(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed_request_token(key, body):
    now = int(time.time())
    claims = {"requestBody": json.dumps(body), "iat": now, "exp": now + 60}
    signing = segment(b'{"alg":"RS256"}') + b"." + segment(json.dumps(claims).encode())
    signature = key.sign(signing, padding.PKCS1v15(), hashes.SHA256())
    return (signing + b"." + segment(signature)).decode()


def request_body(client, kid, wrapped, policy, binding):
    public = client.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    kao = {"type": "wrapped", "url": "http://localhost:8080", "protocol": "kas", "kid": kid,
           "wrappedKey": base64.b64encode(wrapped).decode(),
           "policyBinding": {"alg": "HS256", "hash": binding}}
    return {"clientPublicKey": public.decode(),
            "requests": [{"algorithm": "rsa:2048",
                          "policy": {"id": "policy", "body": policy},
                          "keyAccessObjects": [{"keyAccessObjectId": "kao-0",
                                                "keyAccessObject": kao}]}]}


def main(url, token):
    channel = grpc.insecure_channel(url.removeprefix("http://"))

    def rpc(method, request_type, response_type):
        return channel.unary_unary(
            f"/kas.AccessService/{method}",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString)

    answer = rpc("PublicKey", kas_pb2.PublicKeyRequest, kas_pb2.PublicKeyResponse)(
        kas_pb2.PublicKeyRequest(algorithm="rsa:2048"), timeout=20)
    kas_key = serialization.load_pem_public_key(answer.public_key.encode())

    dek = os.urandom(32)
    policy = base64.b64encode(json.dumps({
        "uuid": "11111111-2222-3333-4444-555555555555",
        "body": {"dataAttributes": [], "dissem": []}}).encode()).decode()
    mac = hmac.new(dek, policy.encode(), hashlib.sha256).hexdigest()
    binding = base64.b64encode(mac.encode()).decode()
    client = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    wrapped = kas_key.encrypt(dek, OAEP)
    rewrap = rpc("Rewrap", kas_pb2.RewrapRequest, kas_pb2.RewrapResponse)

    def result_of(ciphertext):
        body = request_body(client, answer.kid, ciphertext, policy, binding)
        request = kas_pb2.RewrapRequest(signed_request_token=signed_request_token(client, body))
        response = rewrap(request, timeout=20, metadata=[("authorization", f"Bearer {token}")])
        assert response.session_public_key == "", "an RSA client gets no session key"
        return response.responses[0].results[0]

    result = result_of(wrapped)
    assert result.status == "permit", result.error
    assert list(result.metadata["X-Required-Obligations"].list_value.values) == []
    opened = client.decrypt(result.kas_wrapped_key, OAEP)

    tampered = bytearray(wrapped)
    tampered[-1] ^= 1
    failure = result_of(bytes(tampered))
    assert failure.status == "fail" and "InvalidArgument" in failure.error, failure.error

    print(json.dumps({
        "kid": answer.kid,
        "rewrapped": opened == dek,
        "custody": result.metadata["X-Kasbah-Custody"].string_value,
        "tampered": failure.error.split("desc = ")[1]}))
    sys.exit(opened != dek)


main(*sys.argv[1:])
