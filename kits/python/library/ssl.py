"""Stands for `ssl`, which CPython for WASI does not have: what a module needs to be imported. A connection cannot be made."""

import enum

OPENSSL_VERSION = "OpenSSL 3.0.0 (none: a worker has no TLS of its own)"
OPENSSL_VERSION_INFO = (3, 0, 0, 0, 0)
OPENSSL_VERSION_NUMBER = 0x30000000
_OPENSSL_API_VERSION = OPENSSL_VERSION_INFO

HAS_ALPN = HAS_ECDH = HAS_NPN = HAS_PSK = HAS_SNI = False
HAS_NEVER_CHECK_COMMON_NAME = True
HAS_SSLv2 = HAS_SSLv3 = HAS_TLSv1 = HAS_TLSv1_1 = False
HAS_TLSv1_2 = HAS_TLSv1_3 = True
CHANNEL_BINDING_TYPES = []

_NO_TLS = "a worker has no TLS of its own: use fetch(), and [features.http_requests] in the worker's TOML"


def _constants(name, kind, values):
    made = kind(name, values, module=__name__)
    globals().update(made.__members__)
    return made


_SSLMethod = _constants(
    "_SSLMethod", enum.IntEnum, {"PROTOCOL_TLS": 2, "PROTOCOL_TLSv1": 3, "PROTOCOL_TLSv1_1": 4, "PROTOCOL_TLSv1_2": 5, "PROTOCOL_TLS_CLIENT": 16, "PROTOCOL_TLS_SERVER": 17}
)
PROTOCOL_SSLv23 = PROTOCOL_TLS
Options = _constants(
    "Options",
    enum.IntFlag,
    {
        "OP_ALL": 0x80000050,
        "OP_NO_SSLv2": 0,
        "OP_NO_SSLv3": 0x02000000,
        "OP_NO_TLSv1": 0x04000000,
        "OP_NO_TLSv1_1": 0x10000000,
        "OP_NO_TLSv1_2": 0x08000000,
        "OP_NO_TLSv1_3": 0x20000000,
        "OP_NO_COMPRESSION": 0x00020000,
        "OP_NO_TICKET": 0x00004000,
        "OP_NO_RENEGOTIATION": 0x40000000,
        "OP_CIPHER_SERVER_PREFERENCE": 0x00400000,
        "OP_ENABLE_MIDDLEBOX_COMPAT": 0x00100000,
        "OP_IGNORE_UNEXPECTED_EOF": 0x00000080,
        "OP_LEGACY_SERVER_CONNECT": 0x00000004,
        "OP_SINGLE_DH_USE": 0,
        "OP_SINGLE_ECDH_USE": 0,
    },
)
VerifyMode = _constants("VerifyMode", enum.IntEnum, {"CERT_NONE": 0, "CERT_OPTIONAL": 1, "CERT_REQUIRED": 2})
VerifyFlags = _constants(
    "VerifyFlags",
    enum.IntFlag,
    {
        "VERIFY_CRL_CHECK_LEAF": 4,
        "VERIFY_CRL_CHECK_CHAIN": 12,
        "VERIFY_X509_STRICT": 32,
        "VERIFY_ALLOW_PROXY_CERTS": 64,
        "VERIFY_X509_TRUSTED_FIRST": 32768,
        "VERIFY_X509_PARTIAL_CHAIN": 524288,
    },
)
VERIFY_DEFAULT = VerifyFlags(0)


class TLSVersion(enum.IntEnum):
    MINIMUM_SUPPORTED = -2
    SSLv3 = 768
    TLSv1 = 769
    TLSv1_1 = 770
    TLSv1_2 = 771
    TLSv1_3 = 772
    MAXIMUM_SUPPORTED = -1


class Purpose(enum.Enum):
    SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
    CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"


class SSLError(OSError):
    reason = library = None


class SSLZeroReturnError(SSLError):
    pass


class SSLWantReadError(SSLError):
    pass


class SSLWantWriteError(SSLError):
    pass


class SSLSyscallError(SSLError):
    pass


class SSLEOFError(SSLError):
    pass


class SSLCertVerificationError(SSLError, ValueError):
    pass


CertificateError = SSLCertVerificationError


class SSLContext:
    """Keeps what it is set to; there is nothing to use it for."""

    sslsocket_class = sslobject_class = None
    verify_flags = VERIFY_DEFAULT
    minimum_version = TLSVersion.MINIMUM_SUPPORTED
    maximum_version = TLSVersion.MAXIMUM_SUPPORTED
    post_handshake_auth = False
    hostname_checks_common_name = False
    keylog_filename = None

    def __init__(self, protocol=PROTOCOL_TLS):
        self.protocol = protocol
        self.options = OP_ALL
        is_client = protocol == PROTOCOL_TLS_CLIENT
        self.check_hostname = is_client
        self.verify_mode = CERT_REQUIRED if is_client else CERT_NONE

    def _nothing(self, *args, **options):
        pass

    set_ciphers = set_alpn_protocols = set_npn_protocols = set_ecdh_curve = set_servername_callback = _nothing
    load_cert_chain = load_verify_locations = load_default_certs = load_dh_params = set_default_verify_paths = _nothing

    def _empty(self, *args, **options):
        return []

    get_ciphers = get_ca_certs = _empty

    def cert_store_stats(self):
        return {"x509": 0, "crl": 0, "x509_ca": 0}

    def wrap_socket(self, *args, **options):
        raise SSLError(_NO_TLS)

    wrap_bio = wrap_socket


class _None:
    def __init__(self, *args, **options):
        raise SSLError(_NO_TLS)


class SSLSocket(_None):
    pass


class SSLObject(_None):
    pass


class SSLSession(_None):
    pass


class MemoryBIO(_None):
    pass


def create_default_context(purpose=Purpose.SERVER_AUTH, *, cafile=None, capath=None, cadata=None):
    return SSLContext(PROTOCOL_TLS_SERVER if purpose == Purpose.CLIENT_AUTH else PROTOCOL_TLS_CLIENT)


def _create_unverified_context(protocol=PROTOCOL_TLS_CLIENT, **options):
    context = SSLContext(protocol)
    context.check_hostname, context.verify_mode = False, CERT_NONE
    return context


_create_default_https_context = create_default_context
_create_stdlib_context = _create_unverified_context


def _refuse(*args, **options):
    raise SSLError(_NO_TLS)


wrap_socket = get_server_certificate = RAND_add = _refuse
match_hostname = DER_cert_to_PEM_cert = PEM_cert_to_DER_cert = cert_time_to_seconds = _refuse


def RAND_status():
    return True


def RAND_bytes(count):
    import os

    return os.urandom(count)


def get_default_verify_paths():
    from collections import namedtuple

    names = "cafile capath openssl_cafile_env openssl_cafile openssl_capath_env openssl_capath"
    return namedtuple("DefaultVerifyPaths", names)(None, None, "SSL_CERT_FILE", "", "SSL_CERT_DIR", "")
