# Completion of tcpcrypt(1), tcpcryptd(8), stx-send(1), stx-recv(1), stx-keygen(1) in bash:
#
#     eval "$(tcpcrypt completion bash)"

_tcpcrypt_level() {
    commands= options= values= arguments=
    case $1 in
# TABLE
    esac
}

# What an option or an argument takes, for the word `current`.
_tcpcrypt_kind() {
    case $1 in
    file)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        ;;
    directory)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        ;;
    host) mapfile -t COMPREPLY < <(compgen -A hostname -- "$current") ;;
    -) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "${1//|/ }" -- "$current") ;;
    esac
}

_tcpcrypt() {
    local commands options values arguments path current word kind= ended= count=0 i
    path=${COMP_WORDS[0]##*/}
    current=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    _tcpcrypt_level "$path"
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $kind ]]; then
            # bash makes three words of --option=value.
            [[ $word == '=' ]] || kind=
        elif [[ $word == '--' ]]; then
            ended=yes
        elif [[ $word == -* && ! $ended ]]; then
            if [[ " $values " == *" $word="* ]]; then
                kind=" $values "
                kind=${kind#*" $word="}
                kind=${kind%% *}
            fi
        elif [[ " $commands " == *" $word "* ]]; then
            path+=" $word"
            count=0
            _tcpcrypt_level "$path"
        else
            count=$((count + 1))
        fi
    done
    if [[ $kind ]]; then
        [[ $current != '=' ]] || current=
        _tcpcrypt_kind "$kind"
    elif [[ $current == -* && ! $ended ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ $commands ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$current")
    elif [[ $arguments ]]; then
        local -a kinds
        read -ra kinds <<<"$arguments"
        if ((count >= ${#kinds[@]})) && [[ ${kinds[-1]} == *+ ]]; then
            count=$((${#kinds[@]} - 1))
        fi
        if ((count < ${#kinds[@]})); then
            _tcpcrypt_kind "${kinds[count]%+}"
        fi
    fi
}

complete -F _tcpcrypt tcpcrypt tcpcryptd stx-send stx-recv stx-keygen
