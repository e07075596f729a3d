# Random numbers: every request begins where the worker's loading ended, so generators that were there by then are seeded anew.
require "securerandom"

module Wws
  # Something that is not possible where the worker is loaded. Libraries that can do without rescue NotImplementedError.
  class LoadingError < NotImplementedError
    def kind = "loading"
  end

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
        if @loading
          raise LoadingError, "secret random values can be drawn only while a request is handled: every request would have the same; " \
                              "draw them (or require what does) in `worker`, or allow it in the worker's TOML: " \
                              "[vars] WWS_RANDOM_AT_LOAD = \"allow\""
        end

        yield
      end

      # The worker's author has said that it may.
      def allow
        @loading = false
        @may_draw = true
      end

      def made(generator)
        @made << generator if @loading || @may_draw
      end

      # The worker was loaded.
      def loaded
        @loading = @may_draw = false
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
