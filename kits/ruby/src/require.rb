# `require` and `require_relative` of files of the project, which is no directory that the worker sees: the server gives their text,
# while the worker is loaded and in requests. Their paths begin with "/", the project's root.

module Wws
  # Files of the project.
  module Files
    LOADED = {}
    private_constant :LOADED

    module_function

    # Loads a file of the project once. Gives nil if there is none.
    def require(path)
      path = path.sub(%r{\A/+}, "")
      names = path.end_with?(".rb") ? [path] : ["#{path}.rb"]
      names.each do |name|
        return false if LOADED[name]

        source = read(name) or next
        LOADED[name] = true
        begin
          run(source, name)
        rescue Exception # rubocop:disable Lint/RescueException
          LOADED.delete(name)
          raise
        end
        $LOADED_FEATURES << "/#{name}"
        return true
      end
      nil
    end

    # The text of a file, or nil.
    def read(name)
      text = Channel.ask({ op: "source", name: })[1]
      (text.frozen? ? text.dup : text).force_encoding(Encoding::UTF_8)
    rescue Error => e
      raise unless e.kind == "not-found"
    end

    def run(source, name)
      RubyVM::InstructionSequence.compile(source, name, "/#{name}", 1).eval
    end

    # Loads a file that the kit has where this Ruby has none. Gives nil if there is none.
    def library(name)
      key = "wws:#{name}"
      return false if LOADED[key]

      text = Channel.ask({ op: "library", name: })[1].dup.force_encoding(Encoding::UTF_8)
      LOADED[key] = true
      RubyVM::InstructionSequence.compile(text, key, key, 1).eval
      true
    rescue Error => e
      raise unless e.kind == "not-found"
    end

    # What can be required of the worker's directories and of Ruby's own library is a file there.
    def outside?(path)
      File.file?(path) || File.file?("#{path}.rb")
    end
  end

  # Before Ruby's own methods.
  module Require
    NATIVE = "a gem with native code, which a worker cannot have"
    # What is often missed.
    HINTS = {
      "bigdecimal" => "#{NATIVE}; Ruby 3.3 has it inside: wws runtimes install ruby 3.3",
      "nokogiri" => "#{NATIVE}; rexml is in pure Ruby",
      "racc/parser" => "gem install --install-dir _gems racc; docs/workers/ruby.md says how gems are found",
      "io/console" => NATIVE,
      "pty" => "a worker starts no processes"
    }.freeze
    private_constant :NATIVE, :HINTS

    private

    def require(name)
      name = name.to_path if name.respond_to?(:to_path)
      return super unless name.is_a?(String)

      if name.start_with?("./", "../", "/")
        path = File.expand_path(name, "/")
        return super(path) if Files.outside?(path)

        found = Files.require(path)
        return found unless found.nil?

        raise LoadError.new("cannot load #{name}: there is no such file, neither in the project nor in the worker's directories").tap { |error|
          error.instance_variable_set(:@path, name)
        }
      end
      begin
        super.tap { |is_new| Absent.loaded(name) if is_new }
      rescue LoadError => e
        raise unless e.path == name

        found = nil
        $LOAD_PATH.each do |directory|
          directory = File.expand_path(directory.to_s, "/")
          next if File.directory?(directory)

          found = Files.require("#{directory}/#{name}")
          break unless found.nil?
        end
        found = Files.library(name) if found.nil?
        if found.nil?
          hint = HINTS[name] or raise
          raise LoadError.new("#{e.message} (#{hint})").tap { |error| error.instance_variable_set(:@path, name) }
        end

        found
      end
    end

    def require_relative(name)
      from = caller_locations(1, 1).first.absolute_path
      raise LoadError, "cannot infer basepath" unless from

      require(File.expand_path(name.respond_to?(:to_path) ? name.to_path : name, File.dirname(from)))
    end
  end
  Kernel.prepend(Require)
end
