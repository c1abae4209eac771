#compdef tcpcrypt tcpcryptd stx-send stx-recv stx-keygen
# Completion of tcpcrypt(1), tcpcryptd(8), stx-send(1), stx-recv(1), stx-keygen(1) in zsh:
#
#     tcpcrypt completion zsh >"${fpath[1]}/_tcpcrypt"

_tcpcrypt_level() {
    commands=() options=() values=() arguments=()
    case $1 in
# TABLE
    esac
}

# What an option or an argument takes.
_tcpcrypt_kind() {
    case $1 in
    (file) _files ;;
    (directory) _files -/ ;;
    (host) _hosts ;;
    (-) _message 'a value' ;;
    (*) compadd -- ${(s:|:)1} ;;
    esac
}

_tcpcrypt() {
    local -a commands options arguments
    local -A values
    local path_=${words[1]:t} word kind= ended= count=0 i
    _tcpcrypt_level $path_
    for ((i = 2; i < CURRENT; i++)); do
        word=$words[i]
        if [[ -n $kind ]]; then
            kind=
        elif [[ $word == -- ]]; then
            ended=yes
        elif [[ $word == -* && -z $ended ]]; then
            kind=${values[$word]-}
        elif (( ${commands[(I)${(b)word}:*]} )); then
            path_+=" $word"
            count=0
            _tcpcrypt_level $path_
        else
            (( ++count ))
        fi
    done
    if [[ -n $kind ]]; then
        _tcpcrypt_kind $kind
    elif [[ $PREFIX == --*=* && -z $ended ]]; then
        word=${PREFIX%%=*}
        compset -P '*='
        _tcpcrypt_kind ${values[$word]:--}
    elif [[ $PREFIX == -* && -z $ended ]]; then
        _describe -o -t options option options
    elif (( $#commands )); then
        _describe -t commands command commands
    elif (( $#arguments )); then
        if (( count >= $#arguments )) && [[ $arguments[-1] == *+ ]]; then
            count=$(( $#arguments - 1 ))
        fi
        if (( count < $#arguments )); then
            _tcpcrypt_kind ${arguments[count + 1]%+}
        fi
    fi
}

if [[ $funcstack[1] == _tcpcrypt ]]; then
    _tcpcrypt "$@"
else
    compdef _tcpcrypt tcpcrypt tcpcryptd stx-send stx-recv stx-keygen
fi
