# Completes command lines of usher in fish. To install it, write it to
# ~/.config/fish/completions/usher.fish, or put this line into config.fish:
#   usher completion fish | source
function __usher_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -l list ($program complete -- $words[2..] "$word" 2>/dev/null)
    if test "$list[1]" = :files
        # Of --flag=FILE, the name of the file is completed.
        set -l flag (string match -r '^--[^=]*=' -- $word)
        for path in (__fish_complete_path (string replace -r '^--[^=]*=' '' -- $word))
            printf '%s%s\n' "$flag" $path
        end
        return
    end
    printf '%s\n' $list
end
complete -c usher -f -a '(__usher_complete)'
