# Lines for the worker's log.

module Wws
  # Writes a text at a level: :error, :warn, :info or :debug. What goes to $stdout and $stderr is there as well.
  def self.log(text, level = :info)
    level = level.to_s
    level = "info" unless %w[error warn info debug].include?(level)
    Channel.tell({ op: "log", level: }, Wire.text(text))
  end

  # Has the methods of Ruby's Logger that write.
  class Log
    %i[debug info warn error].each do |level|
      define_method(level) do |text = nil, &block|
        Wws.log(text.nil? && block ? block.call : text, level)
        true
      end
      define_method(:"#{level}?") { true }
    end
    alias fatal error
    alias unknown error
    alias << info
  end

  LOG = Log.new
  private_constant :LOG

  def self.logger = LOG
end
