# What a worker cannot do says so, and what there is instead.

module Wws
  module Absent
    THREADS = "a worker has one thread: Thread.new, Timeout and what needs them are not there"
    PROCESSES = "a worker starts no processes"
    SOCKETS = "a worker has no sockets: use fetch(), and [features.http_requests] in the worker's TOML"
    NO_TMPDIR = "a worker has no directory for temporary files unless its TOML gives it one: " \
                "[[folders]] from = \"./tmp\", to = \"/tmp\""
    private_constant :THREADS, :PROCESSES, :SOCKETS, :NO_TMPDIR

    # A module whose methods all raise.
    def self.methods_that_refuse(names, message)
      Module.new do
        names.each { |name| define_method(name) { |*, **, &_| raise NotImplementedError, message } }
      end
    end

    # Called when a library was loaded.
    def self.loaded(name)
      case name
      # It would complain of its timeout's thread.
      when "net/http" then Net::HTTP.prepend(methods_that_refuse(%i[connect], SOCKETS))
      # Built without sockets it has no TLS, which clients set up before they connect.
      when "openssl" then OpenSSL.const_set(:SSL, Tls) unless OpenSSL.const_defined?(:SSL)
      end
    end

    module Tls
      VERIFY_NONE = 0
      VERIFY_PEER = 1

      class SSLError < StandardError; end
    end

    Thread.singleton_class.prepend(methods_that_refuse(%i[new start fork], THREADS))
    processes = methods_that_refuse(%i[` system spawn exec fork], PROCESSES)
    [Kernel, Kernel.singleton_class, Process.singleton_class].each { |place| place.prepend(processes) }
    IO.singleton_class.prepend(methods_that_refuse(%i[popen], PROCESSES))

    # Of `tmpdir`, once that is loaded.
    module Tmpdir
      def tmpdir(...)
        super
      rescue ArgumentError
        raise ArgumentError, NO_TMPDIR
      end
    end
    Dir.singleton_class.prepend(Tmpdir)
  end
end
