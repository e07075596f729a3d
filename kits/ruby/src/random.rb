# Random numbers: every request begins where the worker's loading ended, so generators that were there by then are seeded anew.
require "securerandom"

module Wws
  # What has to be done before a request draws.
  module Randomness
    @loading = true
    @made = []

    # What is secret in one request only must not be drawn before it.
    module Secret
      def gen_random(count) = Randomness.secret { super }

      def bytes(count) = Randomness.secret { super }

      private :gen_random
    end

    # Generators without a seed that the worker makes while it is loaded.
    module Made
      def new(*seed) = super.tap { |made| Randomness.made(made) if seed.empty? }

      def urandom(count) = Randomness.secret { super }
    end

    class << self
      def secret
        raise Error.new("secret random values can be drawn only while a request is handled", "loading") if @loading

        yield
      end

      def made(generator)
        @made << generator if @loading
      end

      # The worker was loaded.
      def loaded
        @loading = false
        @openssl = defined?(OpenSSL::Random) ? true : false
      end

      # Called at the start of each request.
      def renew
        Kernel.srand
        @made.each { |generator| generator.__send__(:initialize) } unless @made.empty?
        OpenSSL::Random.seed(Random.urandom(48)) if @openssl
      end
    end
  end

  SecureRandom.singleton_class.prepend(Randomness::Secret)
  Random.singleton_class.prepend(Randomness::Made)
end
