# How a worker is loaded, and how it answers.

module Wws
  # The worker's lines of a backtrace, at most.
  FRAMES = 50
  # Lines of files, but not of this kit's.
  LINE = /\A(?!wws:|<internal:).*?:\d+/
  QUESTION = %({"op":"request"}\n)
  private_constant :FRAMES, :LINE, :QUESTION

  # Runs the worker's file. What is wrong with it is told to the server. +settings+ are variables that are not the worker's.
  def self.load(file, settings)
    settings.each { |name| ENV.delete(name) }
    Randomness.allow if ENV.delete("WWS_RANDOM_AT_LOAD") == "allow"
    STDOUT.sync = true
    @file = file
    $0 = $PROGRAM_NAME = file
    source = Files.read(file)
    return fail_with("there is no such file") unless source

    main = TOPLEVEL_BINDING.receiver
    Files.run(source, file)
    unless main.respond_to?(:worker, true)
      return fail_with("it defines no method `worker`: def worker(req) ... end")
    end

    @worker = main.method(:worker)
    unless @worker.arity == 1 || @worker.arity.between?(-2, -1)
      return fail_with("`worker` must take one argument, the request; it takes #{@worker.arity.abs}", at: @worker.source_location)
    end

    Randomness.loaded
    warm(file)
    nil
  rescue Exception => e # rubocop:disable Lint/RescueException
    failed(e)
  end

  # Walks the way of a request, so that what Ruby keeps beside the code (where methods and constants are) is in the snapshot and not
  # written by each request. Leaves no garbage to any. The server does not take these answers.
  def self.warm(file)
    worker = @worker
    @worker = ->(req) { Response.new(req.body, 200, { "content-type" => "text/plain" }) }
    @question = "#{JSON.generate({ op: "source", name: file })}\n"
    3.times { answer }
    @question = QUESTION
    @worker = worker
    3.times { GC.start }
  end
  private_class_method :warm

  # Handles one request. Whatever it raises is this request's failure.
  def self.answer
    Randomness.renew
    head, body = Channel.ask_line(@question)
    number = head["stream"]
    content = number ? Body.new(number) { |error| IOError.new(error.message) } : text(body)
    request = Request.new(head["url"], head["method"], head["headers"], content, head["params"])
    response = @worker.call(request)
    return serve(response) if response.is_a?(WebSocket)

    response = Response.new(response) if response.is_a?(String)
    unless response.is_a?(Response)
      return fail_with("`worker` returned #{show(response)} instead of a Response: Response.new(body, status, headers)")
    end

    Wire.parts?(response.body) ? stream(response) : send(response)
  rescue Exception => e # rubocop:disable Lint/RescueException
    failed(e)
  end

  def self.serve(accepted)
    accepted.handler.call(WebSocket::Connection.new(accepted.headers))
  end
  private_class_method :serve

  def self.send(response)
    body = Wire.body(response.body)
    status = Integer(response.status_code)
    headers = Wire.headers(response.headers)
    lines = headers.empty? ? "[]" : JSON.generate(headers)
    Channel.tell_line(%({"op":"response","status":#{status},"headers":#{lines},"body":#{body.bytesize}}\n), body)
  end
  private_class_method :send

  # Sends a body part by part, as `each` gives them.
  def self.stream(response)
    message = { op: "start", status: Integer(response.status_code), headers: Wire.headers(response.headers) }
    open = Channel.ask(message)[0]["open"]
    if open
      response.body.each do |part|
        Wire.wrong(part) unless part.is_a?(String)
        next if part.empty?

        open = Channel.ask({ op: "piece" }, part.b)[0]["open"]
        break unless open
      end
    end
    Channel.ask({ op: "end" }) if open
  ensure
    response.body.close if response.body.respond_to?(:close)
  end
  private_class_method :stream

  # Tells the server that loading or the request failed: why, where (a file and a line), and lines for the log.
  def self.fail_with(message, detail = "", at: nil)
    file, line = at
    place = line ? { file: Wire.text(file), line: line } : {}
    Channel.tell({ op: "fail", message: Wire.text(message), **place }, Wire.text(detail))
  end
  private_class_method :fail_with

  def self.failed(error)
    frames = frames(error)
    message, place = error.is_a?(SyntaxError) ? syntax(error, frames) : [reason(error), place(frames)]
    # A load problem is this one line.
    if @worker.nil? && (at = frames.first&.slice(LINE)) && at != place
      message += ", raised at #{at}"
    end
    file, line = place&.match(/\A(.*):(\d+)\z/)&.captures
    fail_with(message, describe(error, frames), at: line && [file, line.to_i])
  rescue SystemStackError, NoMemoryError => e
    fail_with("#{e.message} (#{e.class})")
  end
  private_class_method :failed

  # Where the worker's author has to look: the first line of the project's own, as "FILE:LINE". None without frames.
  def self.place(frames)
    frame = frames.find { |line| !line.start_with?("/") } || frames.first
    frame && frame[LINE]
  end
  private_class_method :place

  def self.frames(error)
    (error.backtrace || []).lazy.grep(LINE).first(FRAMES)
  end
  private_class_method :frames

  def self.reason(error)
    case error
    when SystemExit then "it called `exit`, which a worker cannot"
    else "#{error.message.lines.first&.chomp} (#{error.class})"
    end
  end
  private_class_method :reason

  # What the parser says, and its "FILE:LINE". Its message begins with the place and has lines of the source, with the reason
  # behind "^". Only an error of the parser's has a path: another one may say anything.
  def self.syntax(error, frames)
    first, *rest = error.message.lines.map(&:chomp)
    path = error.path
    place = first[/\A#{Regexp.escape(path)}:\d+/] if path && !path.start_with?("(eval")
    place ||= place(frames)
    why = rest.filter_map { |line| line[/\^+~* +(.+)/, 1] }.first || first.to_s.delete_prefix(place.to_s).delete_prefix(":").strip
    ["#{why} (SyntaxError)", place]
  end
  private_class_method :syntax

  def self.describe(error, frames)
    lines = [error.is_a?(SystemExit) ? reason(error) : error.detailed_message(highlight: false)]
    lines.concat(frames.map { |line| "    #{line}" })
    causes = 0
    while (error = error.cause) && (causes += 1) < 5
      lines << "caused by: #{error.detailed_message(highlight: false)}"
      lines.concat(frames(error).map { |line| "    #{line}" })
    end
    lines.join("\n")
  end
  private_class_method :describe
end
