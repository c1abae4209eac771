# Completion of tcpcrypt(1), tcpcryptd(8), stx-send(1), stx-recv(1), stx-keygen(1) in fish:
#
#     tcpcrypt completion fish | source

function __tcpcrypt_level --no-scope-shadowing
    set commands
    set options
    set values
    set arguments
    switch $argv[1]
# TABLE
    end
end

# What an option or an argument takes; $argv[2] stands before each, $argv[3] is its begin.
function __tcpcrypt_kind
    switch $argv[1]
        case file
            __fish_complete_path $argv[3] | string replace -r '^' -- $argv[2]
        case directory
            __fish_complete_directories $argv[3] | string replace -r '^' -- $argv[2]
        case host
            __fish_print_hostnames | string replace -r '^' -- $argv[2]
        case -
        case '*'
            string split '|' -- $argv[1] | string replace -r '^' -- $argv[2]
    end
end

function __tcpcrypt_complete
    set -l commands
    set -l options
    set -l values
    set -l arguments
    set -l kind
    set -l ended
    set -l count 0
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l path (string replace -r '.*/' '' -- $words[1])
    __tcpcrypt_level $path
    for word in $words[2..-1]
        if test -n "$kind"
            set kind
        else if test "$word" = --
            set ended yes
        else if string match -qr '^-' -- $word; and test -z "$ended"
            set kind (string match -- "$word=*" $values | string replace -- "$word=" '')
        else if string match -q -- "$word"\t'*' $commands
            set path "$path $word"
            set count 0
            __tcpcrypt_level $path
        else
            set count (math $count + 1)
        end
    end
    if test -n "$kind"
        __tcpcrypt_kind $kind '' $current
    else if string match -qr '^--[^=]+=' -- $current; and test -z "$ended"
        set -l name (string replace -r '=.*' '' -- $current)
        set kind (string match -- "$name=*" $values | string replace -- "$name=" '')
        test -n "$kind"; and __tcpcrypt_kind $kind "$name=" (string replace -- "$name=" '' $current)
    else if string match -qr '^-' -- $current; and test -z "$ended"
        printf '%s\n' $options
    else if test (count $commands) -gt 0
        printf '%s\n' $commands
    else if test (count $arguments) -gt 0
        if test $count -ge (count $arguments); and string match -q -- '*+' $arguments[-1]
            set count (math (count $arguments) - 1)
        end
        if test $count -lt (count $arguments)
            __tcpcrypt_kind (string replace -r '\+$' '' -- $arguments[(math $count + 1)]) '' $current
        end
    end
end

for program in tcpcrypt tcpcryptd stx-send stx-recv stx-keygen
    complete -c $program -f -a '(__tcpcrypt_complete)'
end
